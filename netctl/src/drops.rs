//! `netctl drop` and `netctl counter`.

use anyhow::bail;
use serde_json::{Value, json};

use crate::{
    hex,
    merge::number,
    output::{self, Output},
    services::{endpoint, qualified},
    source::{Answer, Source},
    table::{Column, Rows, column, wide},
};

const DROPS: &[Column] = &[
    column("NODE", "node"),
    column("REASON", "reason"),
    column("SERVICE", "service"),
    column("PACKETS", "packets"),
    wide("BYTES", "bytes"),
    column("LAST PACKET", "lastPacket"),
    column("MEANING", "description"),
];

const COUNTERS: &[Column] = &[
    column("NODE", "node"),
    column("COUNTER", "counter"),
    column("COUNT", "count"),
    column("MEANING", "description"),
];

/// Dropped packets by node, reason and service; reasons that never occurred only if `all`.
pub(crate) async fn list(source: &Source, all: bool) -> anyhow::Result<Rows> {
    let mut rows = Vec::new();
    for answer in source.view("drops", "").await? {
        rows.extend(by_service(&answer, all));
    }
    Ok(Rows::new(DROPS, rows, "No packet was dropped."))
}

/// A node's drops: for each reason a row a service, and one for what was dropped before its service
/// was known.
fn by_service(answer: &Answer, all: bool) -> Vec<Value> {
    let mut rows = Vec::new();
    for drop in answer.body.as_array().into_iter().flatten() {
        let mut rest = number(&drop["packets"]);
        let services = drop["services"].as_array().cloned().unwrap_or_default();
        let mut row = drop.clone();
        row["node"] = answer.node.as_str().into();
        if let Some(row) = row.as_object_mut() {
            row.remove("services");
        }
        let is_whole = services.is_empty();
        for service in services {
            let packets = number(&service["packets"]);
            rest = rest.saturating_sub(packets);
            let mut row = row.clone();
            row["service"] = service["service"].clone();
            row["packets"] = packets.into();
            // Bytes are counted by reason only.
            row["bytes"] = Value::Null;
            row["last"] = service["last"].clone();
            row["lastPacket"] = ends(&service["last"]);
            rows.push(row);
        }
        if rest > 0 || (all && is_whole) {
            row["service"] = Value::Null;
            row["packets"] = rest.into();
            row["lastPacket"] = ends(&row["last"]);
            if !is_whole {
                row["bytes"] = Value::Null;
            }
            rows.push(row);
        }
    }
    rows
}

/// Who a packet was from and for, by the innermost of the headers that its sample holds.
fn ends(packet: &Value) -> Value {
    let mut ends = Value::Null;
    let layers = packet["frame"]["layers"].as_array();
    for layer in layers.into_iter().flatten() {
        let fields = &layer["fields"];
        let text = |name: &str| fields[name].as_str();
        if let Some((source, destination)) = text("source").zip(text("destination")) {
            ends = json!({ "source": source, "destination": destination });
        }
        for name in ["sourcePort", "destinationPort"] {
            if let Some(port) = text(name).and_then(|port| port.parse::<u16>().ok()) {
                ends[name] = port.into();
            }
        }
    }
    let end = |address: &str, port: &str| match (&ends[address], &ends[port]) {
        (address, Value::Null) => address.as_str().map(str::to_owned),
        (address, port) => Some(endpoint(address, port)),
    };
    let source = end("source", "sourcePort");
    let destination = end("destination", "destinationPort");
    source
        .zip(destination)
        .map_or(Value::Null, |(source, destination)| {
            format!("{source} > {destination}").into()
        })
}

/// The last packet that each node dropped for a reason, of each service or of one.
pub(crate) async fn show(
    source: &Source,
    reason: &str,
    service: Option<&str>,
    output: Output,
) -> anyhow::Result<()> {
    let mut query = format!("reason={reason}");
    if let Some(service) = service {
        query.push_str(&format!("&service={}", qualified(service)));
    }
    let mut samples = Vec::new();
    for answer in source.view("samples", &query).await? {
        for mut sample in answer.body.as_array().cloned().unwrap_or_default() {
            sample["node"] = answer.node.as_str().into();
            samples.push(sample);
        }
    }
    if !output.is_for_people() {
        return output::document(output, &Value::Array(samples));
    }
    if samples.is_empty() {
        bail!("no packet was dropped for {reason} (see `netctl drop ls`)");
    }
    let texts: Vec<String> = samples.iter().map(describe).collect();
    output::write(&texts.join("\n"))
}

fn describe(sample: &Value) -> String {
    let text_of = |field: &str| sample[field].as_str().unwrap_or("?");
    let age = match sample["ageSeconds"].as_u64() {
        Some(age) => format!("{age} s ago"),
        None => "some time ago".to_owned(),
    };
    let interface = match &sample["interface"] {
        Value::String(name) => name.clone(),
        number => format!("interface {number}"),
    };
    let service = match sample["service"].as_str() {
        Some(service) => format!(", for {service}"),
        None => String::new(),
    };
    let captured = number(&sample["frame"]["length"]);
    let length = number(&sample["length"]);
    let of = if captured < length {
        format!("the first of {length} bytes, ")
    } else {
        String::new()
    };
    format!(
        "{}: {}\n{age} on {}, by {interface}{service}\n{of}{}",
        text_of("reason"),
        text_of("description"),
        text_of("node"),
        hex::frame(&sample["frame"])
    )
}

/// What is counted and is no drop; what never happened only if `all`.
pub(crate) async fn counters(source: &Source, all: bool) -> anyhow::Result<Rows> {
    let mut rows = Vec::new();
    for answer in source.view("counters", "").await? {
        for mut counter in answer.body.as_array().cloned().unwrap_or_default() {
            if all || counter["count"] != 0 {
                counter["node"] = answer.node.as_str().into();
                rows.push(counter);
            }
        }
    }
    Ok(Rows::new(COUNTERS, rows, "Nothing was counted."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet by a tunnel, as agents show it.
    fn packet() -> Value {
        json!({"frame": {"layers": [
            {"name": "Ethernet", "fields": {"source": "02:00:00:00:00:01", "destination": "02:00:00:00:00:02"}},
            {"name": "IPv4", "fields": {"source": "198.18.0.1", "destination": "198.18.0.2"}},
            {"name": "IPv6", "fields": {"source": "2001:db8::1", "destination": "2001:db8::2"}},
            {"name": "TCP", "fields": {"sourcePort": "4000", "destinationPort": "80"}},
        ]}})
    }

    #[test]
    fn drops_are_told_by_service_and_the_rest_without_one() {
        let answer = Answer {
            node: "node-1".into(),
            body: json!([
                {"reason": "NoBackend", "packets": 5, "bytes": 300, "last": null,
                 "services": [{"service": "a/b", "packets": 3, "last": packet()}]},
                {"reason": "Malformed", "packets": 2, "bytes": 80, "services": []},
                {"reason": "Spoofed", "packets": 0, "bytes": 0, "services": []},
            ]),
        };
        let seen = |all| -> Vec<String> {
            by_service(&answer, all)
                .iter()
                .map(|row| {
                    format!(
                        "{} {} {} {} {}",
                        row["reason"],
                        row["service"],
                        row["packets"],
                        row["bytes"],
                        row["lastPacket"]
                    )
                })
                .collect()
        };
        assert_eq!(
            seen(false),
            [
                "\"NoBackend\" \"a/b\" 3 null \"[2001:db8::1]:4000 > [2001:db8::2]:80\"",
                "\"NoBackend\" null 2 null null",
                "\"Malformed\" null 2 80 null",
            ]
        );
        assert_eq!(seen(true).len(), 4);
    }

    #[test]
    fn sample_tells_when_where_and_what() {
        let sample = json!({
            "reason": "NoBackend", "description": "the service has no backend", "ageSeconds": 3,
            "node": "node-1", "interface": "eth0", "service": "a/b:http", "length": 200,
            "frame": {"length": 2, "layers": [{"name": "cut short", "fields": {"bytes": "2"}}], "bytes": "0800"},
        });
        assert_eq!(
            describe(&sample),
            "\
NoBackend: the service has no backend
3 s ago on node-1, by eth0, for a/b:http
the first of 200 bytes, 2 bytes:
  cut short  bytes 2
  0000  08 00                                             ..
"
        );
    }
}
