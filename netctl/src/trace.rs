//! `netctl trace`.

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::{
    hex,
    output::{self, Output},
    source::{Answer, Source},
    table::{Column, column, table},
};

/// The packet that is asked about.
#[derive(Args)]
pub(crate) struct Packet {
    /// Who sends it: ADDRESS:PORT, [ADDRESS]:PORT; of icmp an address alone.
    #[arg(long, value_name = "ADDRESS:PORT")]
    from: String,
    /// For whom it is, as a VIP's port.
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: String,
    /// Its protocol. Of icmp it is an echo request.
    #[arg(long, alias = "protocol", value_enum, default_value_t = Protocol::Tcp)]
    proto: Protocol,
    /// It opens a TCP connection. Without a flag it is in the midst of one (ACK).
    #[arg(long)]
    syn: bool,
    /// It acknowledges; with --syn it is an answer to one.
    #[arg(long)]
    ack: bool,
    /// It closes one.
    #[arg(long)]
    fin: bool,
    /// It breaks one off.
    #[arg(long)]
    rst: bool,
    /// It bears the tag of this VLAN.
    #[arg(long, value_name = "ID")]
    vlan: Option<u16>,
    /// Bytes of the IP packet; without it no more than its headers.
    #[arg(long, value_name = "BYTES")]
    size: Option<u16>,
    /// The uplink it arrives at; without it the node's first.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

impl Packet {
    fn query(&self) -> String {
        let protocol = match self.proto {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        };
        let flags: Vec<&str> = [
            (self.syn, "syn"),
            (self.ack, "ack"),
            (self.fin, "fin"),
            (self.rst, "rst"),
        ]
        .into_iter()
        .filter(|(is_set, _)| *is_set)
        .map(|(_, name)| name)
        .collect();
        let mut pairs = vec![
            ("from", self.from.clone()),
            ("to", self.to.clone()),
            ("protocol", protocol.to_owned()),
        ];
        if !flags.is_empty() {
            pairs.push(("flags", flags.join(",")));
        }
        pairs.extend(self.vlan.map(|vlan| ("vlan", vlan.to_string())));
        pairs.extend(self.size.map(|size| ("size", size.to_string())));
        pairs.extend(self.interface.clone().map(|name| ("interface", name)));
        let pairs: Vec<String> = pairs
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("&")
    }
}

/// Asks one node, or all of them: then the answer of the node that announces the address is shown
/// whole, and the others' in a line each.
pub(crate) async fn run(source: &Source, packet: &Packet, output: Output) -> anyhow::Result<()> {
    let answers = source.view("trace", &packet.query()).await?;
    if !output.is_for_people() {
        let traces = answers.into_iter().map(|answer| answer.body).collect();
        return output::document(output, &Value::Array(traces));
    }
    output::write(&text(&answers))
}

fn text(answers: &[Answer]) -> String {
    const ELSEWHERE: &[Column] = &[
        column("ELSEWHERE", "node"),
        column("VERDICT", "verdict"),
        column("BACKEND", "backendName"),
        column("FORWARDING", "mode"),
        column("DROPPED FOR", "dropReason"),
    ];
    let announcing = |answer: &&Answer| answer.body["frontend"]["announcedHere"] == true;
    let Some(shown) = answers.iter().find(announcing).or(answers.first()) else {
        return String::new();
    };
    let mut text = whole(&shown.body);
    let others: Vec<Value> = answers
        .iter()
        .filter(|answer| answer.node != shown.node)
        .map(|answer| {
            let mut row = answer.body.clone();
            row["backendName"] = row["backend"]["name"].clone();
            row["mode"] = row["forwarding"]["mode"].clone();
            row
        })
        .collect();
    if !others.is_empty() {
        text.push('\n');
        text.push_str(&table(ELSEWHERE, &others, false));
    }
    text
}

/// One node's trace.
fn whole(trace: &Value) -> String {
    let name = trace["node"].as_str().unwrap_or("?");
    let mut text = format!("on {name}, generation {}\n\n", trace["generation"]);
    let lines = trace["explanation"].as_array();
    for line in lines.into_iter().flatten() {
        let [subject, said] = ["subject", "text"].map(|field| line[field].as_str().unwrap_or(""));
        text.push_str(&format!("{subject:<11} {said}\n"));
    }
    text.push_str("\nthe packet as it arrives, ");
    text.push_str(&hex::frame(&trace["packet"]));
    for program in trace["programs"].as_array().into_iter().flatten() {
        let name = program["name"].as_str().unwrap_or("?");
        if program["isFrameChanged"] == true {
            text.push_str(&format!("\nafter {name}, "));
            text.push_str(&hex::frame(&program["frame"]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(node: &str, announced: bool) -> Answer {
        Answer {
            node: node.into(),
            body: json!({
                "node": node,
                "generation": 42,
                "verdict": "transmit",
                "dropReason": null,
                "frontend": {"announcedHere": announced},
                "backend": {"name": "hello-1"},
                "forwarding": {"mode": "dr"},
                "explanation": [
                    {"subject": "frontend", "text": "198.18.100.1:80 is a VIP's"},
                    {"subject": "verdict", "text": "sent to the backend"},
                ],
                "packet": {
                    "length": 18,
                    "layers": [
                        {"name": "Ethernet", "offset": 0, "fields": {"type": "IPv4"}},
                        {"name": "cut short", "offset": 14, "fields": {"bytes": "4"}},
                    ],
                    "bytes": "0200000000660200000000010800450000ff",
                },
                "programs": [{
                    "name": "xdp_ingress",
                    "isFrameChanged": true,
                    "frame": {"length": 1, "layers": [], "bytes": "41"},
                }],
            }),
        }
    }

    #[test]
    fn node_that_announces_is_shown_whole_and_the_others_in_a_line() {
        let text = text(&[answer("node-1", false), answer("node-2", true)]);
        assert_eq!(
            text,
            "\
on node-2, generation 42

frontend    198.18.100.1:80 is a VIP's
verdict     sent to the backend

the packet as it arrives, 18 bytes:
  Ethernet   type IPv4
  cut short  bytes 4
  0000  02 00 00 00 00 66 02 00  00 00 00 01 08 00 45 00  .....f........E.
  0010  00 ff                                             ..

after xdp_ingress, 1 bytes:
  0000  41                                                A

ELSEWHERE   VERDICT    BACKEND   FORWARDING   DROPPED FOR
node-1      transmit   hello-1   dr           -
"
        );
    }
}
