//! `netctl flow`.

use std::{
    collections::HashMap,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::{
    merge::number,
    output::{self, Output},
    services::qualified,
    source::Source,
    table::{Column, Rows, column, table, wide},
};

const LIST: &[Column] = &[
    column("NODE", "node"),
    column("KIND", "kind"),
    column("PROTOCOL", "protocol"),
    wide("VPC", "vpc"),
    column("FROM", "from"),
    column("TO", "to"),
    column("VIA", "via"),
    wide("SERVICE", "service"),
    column("BACKEND", "backendName"),
    column("STATE", "state"),
    column("IDLE S", "idleSeconds"),
    column("PACKETS", "packets"),
    column("BYTES", "bytes"),
];

const TOP: &[Column] = &[
    column("NODE", "node"),
    column("KIND", "kind"),
    column("PROTOCOL", "protocol"),
    column("FROM", "from"),
    column("TO", "to"),
    column("BACKEND", "backendName"),
    wide("SERVICE", "service"),
    column("PACKETS/S", "packetsPerSecond"),
    column("BYTES/S", "bytesPerSecond"),
    wide("PACKETS", "packets"),
    wide("BYTES", "bytes"),
];

/// Which flows.
#[derive(Args)]
pub(crate) struct Filter {
    /// Only of this kind.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Only of this Service, NAMESPACE/NAME; the namespace is `default` unless given.
    #[arg(long)]
    service: Option<String>,
    /// Only of this client.
    #[arg(long, value_name = "ADDRESS")]
    client: Option<String>,
    /// Only to this backend, by name or id.
    #[arg(long)]
    backend: Option<String>,
}

/// What a flow is remembered for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A client's flow, where it is balanced: tracked services, and slots that move.
    Tracked,
    /// A client's flow, at the node of the pod that answers.
    Service,
    /// A client's flow that is translated to a real server and back.
    Nat,
    /// A pod's connection to the outside, in the node's name.
    Masquerade,
}

/// How `top` goes about it.
#[derive(Args)]
pub(crate) struct Top {
    #[command(flatten)]
    filter: Filter,
    /// Seconds to measure over, and between two tables.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
    /// Tables until it ends; 0: until it is interrupted. One, unless on a terminal.
    #[arg(long)]
    count: Option<u64>,
    /// What decides who comes first.
    #[arg(long, value_enum, default_value_t = By::Bytes)]
    by: By,
    /// Flows shown.
    #[arg(long, default_value_t = 20)]
    lines: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Packets,
    Bytes,
}

impl Filter {
    fn query(&self, limit: u32) -> String {
        let mut pairs = vec![format!("limit={limit}")];
        if let Some(kind) = self.kind.and_then(|kind| kind.to_possible_value()) {
            pairs.push(format!("kind={}", kind.get_name()));
        }
        if let Some(service) = &self.service {
            pairs.push(format!("service={}", qualified(service)));
        }
        if let Some(client) = &self.client {
            pairs.push(format!("client={client}"));
        }
        if let Some(backend) = &self.backend {
            pairs.push(format!("backend={backend}"));
        }
        pairs.join("&")
    }
}

/// Flows the nodes' maps remember.
pub(crate) async fn list(source: &Source, filter: &Filter, limit: u32) -> anyhow::Result<Rows> {
    let rows = ask(source, filter, limit).await?;
    Ok(Rows::new(LIST, rows, "No such flow is remembered."))
}

/// Those with the most packets or bytes a second, again and again.
pub(crate) async fn top(source: &Source, top: &Top, output: Output) -> anyhow::Result<()> {
    /// Flows of a node that are looked at: those with the most packets so far.
    const LOOKED_AT: u32 = 20_000;
    let is_terminal = io::stdout().is_terminal() && output.is_for_people();
    let count = top.count.unwrap_or(if is_terminal { 0 } else { 1 });
    let interval = Duration::from_secs(top.interval);
    let mut since = Instant::now();
    let mut before = ask(source, &top.filter, LOOKED_AT).await?;
    let mut shown = 0;
    while count == 0 || shown < count {
        tokio::time::sleep(interval).await;
        let now = ask(source, &top.filter, LOOKED_AT).await?;
        let passed = since.elapsed();
        since = Instant::now();
        let mut busiest = rates(&before, now.clone(), passed);
        busiest.sort_by_key(|flow| {
            std::cmp::Reverse(match top.by {
                By::Packets => number(&flow["packetsPerSecond"]),
                By::Bytes => number(&flow["bytesPerSecond"]),
            })
        });
        busiest.truncate(top.lines);
        before = now;
        shown += 1;
        if !output.is_for_people() {
            output::document(output, &Value::Array(busiest))?;
            continue;
        }
        // To the corner, and nothing behind what is written.
        let clear = if is_terminal { "\x1b[H\x1b[J" } else { "" };
        let rows = table(TOP, &busiest, output == Output::Wide);
        output::write(&format!("{clear}{rows}"))?;
    }
    Ok(())
}

async fn ask(source: &Source, filter: &Filter, limit: u32) -> anyhow::Result<Vec<Value>> {
    let mut rows = Vec::new();
    for answer in source.view("flows", &filter.query(limit)).await? {
        for mut flow in answer.body.as_array().cloned().unwrap_or_default() {
            flow["node"] = answer.node.as_str().into();
            rows.push(flow);
        }
    }
    Ok(rows)
}

/// The flows of `now` that had packets since `before`, `passed` ago, with how many a second. One that
/// is new had all of its packets since.
fn rates(before: &[Value], now: Vec<Value>, passed: Duration) -> Vec<Value> {
    let key = |flow: &Value| -> Vec<String> {
        let fields = ["node", "kind", "protocol", "vpc", "from", "to", "via"];
        fields.map(|field| flow[field].to_string()).to_vec()
    };
    let counts = |flow: &Value| (number(&flow["packets"]), number(&flow["bytes"]));
    let known: HashMap<Vec<String>, (u64, u64)> = before
        .iter()
        .map(|flow| (key(flow), counts(flow)))
        .collect();
    let per_second = |count: u64| (count as f64 / passed.as_secs_f64()).round() as u64;
    let mut busy = Vec::new();
    for mut flow in now {
        let (packets, bytes) = counts(&flow);
        let (old_packets, old_bytes) = known.get(&key(&flow)).copied().unwrap_or_default();
        // Fewer than before: another flow with the same ends.
        let packets = packets.checked_sub(old_packets).unwrap_or(packets);
        if packets == 0 {
            continue;
        }
        let bytes = bytes.checked_sub(old_bytes).unwrap_or(bytes);
        flow["packetsPerSecond"] = per_second(packets).into();
        flow["bytesPerSecond"] = per_second(bytes).into();
        busy.push(flow);
    }
    busy
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_of_what_came_between_two_answers() {
        let flow = |from: &str, packets: u64| json!({"from": from, "packets": packets, "bytes": packets * 100});
        let before = [flow("a", 10), flow("b", 10), flow("d", 50)];
        let now = vec![flow("a", 30), flow("b", 10), flow("c", 8), flow("d", 4)];
        let busy = rates(&before, now, Duration::from_secs(2));
        let seen: Vec<_> = busy
            .iter()
            .map(|flow| {
                (
                    flow["from"].as_str().unwrap(),
                    number(&flow["packetsPerSecond"]),
                    number(&flow["bytesPerSecond"]),
                )
            })
            .collect();
        assert_eq!(seen, [("a", 10, 1_000), ("c", 4, 400), ("d", 2, 200)]);
    }
}
