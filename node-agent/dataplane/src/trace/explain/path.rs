//! How the packet left, and what it would have left behind.

use fairlead_dataplane_common::{
    BackendEntry, Counter, FRONTEND_NODE_PORT, NODE_LOCAL, NODE_RESOLVED, NODE_SERVER, SERVICE_DR,
    SERVICE_NAT,
};
use serde_json::{Map, Value, json};

use super::{Explanation, Lines, socket};
use crate::decode::{self, Layer, decode};
use crate::trace::{Error, Verdict, facts, rehearsal};

/// A frame: its bytes, and what its headers say.
pub fn frame_json(frame: &[u8]) -> Value {
    let bytes: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let layers = decode(frame).into_iter().map(|layer| layer_json(&layer));
    json!({
        "length": frame.len(),
        "layers": layers.collect::<Vec<_>>(),
        "bytes": bytes,
    })
}

fn layer_json(layer: &Layer) -> Value {
    let fields: Map<String, Value> = layer
        .fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_str().into()))
        .collect();
    json!({ "name": layer.name, "offset": layer.offset, "fields": fields })
}

impl Explanation<'_> {
    pub(super) fn forwarding(
        &self,
        lines: &mut Lines,
        picked: Option<&BackendEntry>,
    ) -> Result<Value, Error> {
        let Some((service, backend)) = self.facts().service.zip(picked) else {
            return Ok(Value::Null);
        };
        let node = facts::node(self.live, backend.node)?;
        let mode = self.mode();
        let asks = if service.flags & SERVICE_NAT != 0 {
            "the service asks for nat"
        } else if self.is_at_node_port() && node.is_some_and(|node| node.flags & NODE_SERVER != 0) {
            "a server outside does not have the address that the node port is at"
        } else if backend.node == NODE_LOCAL {
            "the backend is on this node"
        } else if service.flags & SERVICE_DR == 0 {
            "the service asks for tun"
        } else if node.is_some_and(|node| node.takes_frames()) && mode == "dr" {
            "the service allows dr, and the backend's node gets frames that are passed on"
        } else if node.is_some_and(|node| node.takes_frames()) {
            "the service allows dr, but other nodes would not pick the same: the packet names its backend"
        } else {
            "the service allows dr, but frames that are passed on are not proved to reach the backend's node"
        };
        let mut text = format!("{mode}: {asks}");
        let mut neighbour = Value::Null;
        if let Some(node) = node {
            let is_resolved = node.flags & NODE_RESOLVED != 0;
            let name = self
                .names
                .node(node.id)
                .unwrap_or_else(|| format!("node {}", node.id));
            if is_resolved {
                let address = decode::mac_text(node.mac);
                text.push_str(&format!("; frames for {name} go to {address}"));
                neighbour = address.into();
            } else {
                text.push_str(&format!(
                    "; the neighbour of {name} is not resolved: the stack will look for it"
                ));
            }
        }
        lines.add("forwarding", text);
        Ok(json!({ "mode": mode, "reason": asks, "neighbour": neighbour }))
    }

    fn is_at_node_port(&self) -> bool {
        let frontend = self.facts().frontend;
        frontend.is_some_and(|frontend| frontend.flags & FRONTEND_NODE_PORT != 0)
    }

    /// How the frame that left reaches the backend, by the frame itself.
    fn mode(&self) -> &'static str {
        let Some(step) = self.trace.outcome.steps.last() else {
            return "none";
        };
        let layers = decode(&step.frame);
        let before = decode(&self.trace.frame);
        let named = |layers: &[Layer], name: &str| layers.iter().any(|layer| layer.name == name);
        let is_ip = |layer: &&Layer| layer.name.starts_with("IPv") && layer.fields.len() > 3;
        let ends = |layers: &[Layer]| -> Option<(String, String)> {
            let ip = layers.iter().find(is_ip)?;
            Some((ip.fields.first()?.1.clone(), ip.fields.get(1)?.1.clone()))
        };
        if named(&layers, "VXLAN") {
            return "tun (VXLAN)";
        }
        if named(&layers, "GUE") {
            return "tun (GUE)";
        }
        if layers.iter().filter(is_ip).count() > before.iter().filter(is_ip).count() {
            return "tun (IP in IP)";
        }
        match (ends(&before), ends(&layers)) {
            (Some(old), Some(new)) if old == new && step.verdict == Verdict::Transmit => "dr",
            (Some(old), Some(new)) if old == new => "none",
            (Some(old), Some(new)) if old.0 == new.0 => "local",
            // Answered here, in the VIP's name.
            (Some(old), Some(new)) if old.0 == new.1 => "none",
            (Some(_), Some(_)) => "nat",
            _ => "none",
        }
    }

    pub(super) fn effects(&self, lines: &mut Lines) {
        for counter in &self.trace.outcome.counters {
            lines.add(
                "counts",
                format!("{}: {}", counter.name(), counter.description()),
            );
        }
        if let Some((key, entry)) = self.trace.outcome.nat {
            let text = format!(
                "answers {} > {} would go to {} as from {}",
                socket(key.source, key.source_port_be),
                socket(key.destination, key.destination_port_be),
                socket(entry.client, entry.client_port_be),
                socket(entry.vip, entry.vip_port_be),
            );
            lines.add("nat", text);
        }
        if let Some((key, entry)) = self.trace.outcome.reply {
            let text = format!(
                "what {} answers would leave as from {}",
                socket(key.source, key.source_port_be),
                socket(entry.address, entry.port_be),
            );
            lines.add("reply", text);
        }
    }

    pub(super) fn programs(
        &self,
        lines: &mut Lines,
        attached: &[Option<[u8; 8]>; 2],
    ) -> Vec<Value> {
        let steps = &self.trace.outcome.steps;
        let tags = self.trace.tags.iter().zip(attached);
        let ran = rehearsal::PROGRAMS.into_iter().zip(tags);
        let mut before = &self.trace.frame;
        let mut programs = Vec::new();
        for ((name, (tag, attached)), step) in ran.zip(steps) {
            let (tag, attached) = (tag_text(*tag), attached.map(tag_text));
            let same = attached.as_ref().map(|attached| *attached == tag);
            let whose = match (same, &attached) {
                (Some(true), _) => "as attached".to_owned(),
                (_, Some(attached)) => format!("NOT what is attached: {attached}"),
                (_, None) => "none is attached".to_owned(),
            };
            lines.add(
                "program",
                format!("{name} (tag {tag}, {whose}): {}", step.verdict.name()),
            );
            let reason = match step.verdict {
                Verdict::Drop(reason) => reason.map(|reason| reason.name()),
                _ => None,
            };
            programs.push(json!({
                "name": name,
                "tag": tag,
                "attachedTag": attached,
                "isAttached": same,
                "verdict": step.verdict.name(),
                "dropReason": reason,
                "isFrameChanged": step.frame != *before,
                "frame": frame_json(&step.frame),
            }));
            before = &step.frame;
        }
        programs
    }

    pub(super) fn verdict(&self, verdict: Verdict, is_picked: bool) -> String {
        let counters = &self.trace.outcome.counters;
        let answered = [
            Counter::Reset,
            Counter::EchoAnswered,
            Counter::TooBigAnswered,
            Counter::NeighbourAnswered,
        ];
        match verdict {
            Verdict::Drop(Some(reason)) => {
                format!("dropped, {}: {}", reason.name(), reason.description())
            }
            Verdict::Drop(None) => "dropped, for no reason that was counted".to_owned(),
            Verdict::Transmit if answered.iter().any(|answer| counters.contains(answer)) => {
                "answered, by the interface it came in by".to_owned()
            }
            Verdict::Transmit if is_picked => {
                "sent to the backend, by the interface it came in by".to_owned()
            }
            Verdict::Transmit => "sent back, by the interface it came in by".to_owned(),
            Verdict::Redirect if is_picked => "handed on, for the backend".to_owned(),
            Verdict::Redirect => "handed to another interface".to_owned(),
            Verdict::Pass => "left to the node's own stack: it is not balanced here".to_owned(),
            Verdict::Unknown(code) => {
                format!("the program returned {code}, which none of ours does")
            }
        }
    }
}

fn tag_text(tag: [u8; 8]) -> String {
    format!("{:016x}", u64::from_be_bytes(tag))
}
