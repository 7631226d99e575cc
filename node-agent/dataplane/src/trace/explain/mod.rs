//! A trace for people and for programs: sentences in the order of the decisions, with what they
//! were decided by.

mod path;

use std::net::{IpAddr, SocketAddr};

use fairlead_dataplane_common::{
    Address, BACKEND_SERVER, BackendEntry, FLOW_CLOSING, FLOW_DATAGRAMS, FLOW_ESTABLISHED,
    FLOW_GUESSED, FLOW_OPENING, FRONTEND_ANNOUNCED, FRONTEND_EXTERNAL, FRONTEND_NODE_PORT,
    NODE_LOCAL, SCHEDULER_LEAST_CONNECTIONS, SCHEDULER_NEVER_QUEUE,
    SCHEDULER_SHORTEST_EXPECTED_DELAY, SERVICE_AFFINITY, SERVICE_DESTINATION_HASH,
    SERVICE_EXTERNAL_LOCAL, SERVICE_IN_TURN, SERVICE_LEAST_LOAD, SERVICE_NOTED,
    SERVICE_SOURCE_HASH, ServiceEntry, TrackEntry, mac, protocol,
};
use serde_json::{Value, json};

pub use self::path::frame_json;
use super::facts::{self, Facts, SlotState};
use super::{Error, Trace, Verdict};
use crate::decode::decode;
use crate::desired::range_text;
use crate::loader::Tables;
use crate::observed::range_of_key;

/// What people call services, backends and nodes: maps know their numbers only.
pub trait Names {
    /// The service of this id.
    fn service(&self, id: u32) -> Option<String>;
    /// The backend of this id.
    fn backend(&self, id: u32) -> Option<String>;
    /// The node of this id.
    fn node(&self, id: u32) -> Option<String>;
}

/// Explains `trace` by what the maps hold. `attached` are the tags of the programs at the uplink,
/// in the order of [`rehearsal::PROGRAMS`].
///
/// # Errors
/// When a map cannot be read.
pub fn explain(
    live: &Tables,
    names: &dyn Names,
    trace: &Trace,
    attached: &[Option<[u8; 8]>; 2],
) -> Result<Value, Error> {
    let explanation = Explanation { live, names, trace };
    let picked = explanation.picked()?;
    let mut lines = Lines(Vec::new());
    let frontend = explanation.frontend(&mut lines);
    let service = explanation.service(&mut lines);
    let slot = explanation.slot(&mut lines)?;
    let flow = explanation.flow(&mut lines);
    let pick = explanation.pick(&mut lines, picked.as_ref())?;
    let forwarding = explanation.forwarding(&mut lines, picked.as_ref().map(|(_, entry)| entry))?;
    explanation.effects(&mut lines);
    let programs = explanation.programs(&mut lines, attached);
    let verdict = trace.outcome.verdict();
    let reason = match verdict {
        Verdict::Drop(reason) => reason,
        _ => None,
    };
    lines.add("verdict", explanation.verdict(verdict, picked.is_some()));
    Ok(json!({
        "verdict": verdict.name(),
        "dropReason": reason.map(|reason| reason.name()),
        "frontend": frontend,
        "service": service,
        "hash": trace.facts.hash,
        "slot": slot,
        "flow": flow,
        "backend": pick,
        "forwarding": forwarding,
        "counters": trace.outcome.counters.iter().map(|counter| counter.name()).collect::<Vec<_>>(),
        "programs": programs,
        "packet": frame_json(&trace.frame),
        "explanation": lines.0,
    }))
}

struct Lines(Vec<Value>);

impl Lines {
    fn add(&mut self, subject: &str, text: impl Into<String>) {
        self.0
            .push(json!({ "subject": subject, "text": text.into() }));
    }
}

struct Explanation<'a> {
    live: &'a Tables,
    names: &'a dyn Names,
    trace: &'a Trace,
}

impl Explanation<'_> {
    fn facts(&self) -> &Facts {
        &self.trace.facts
    }

    /// The backend that the packet went to, and its slot: what it was counted for, or what it bears.
    fn picked(&self) -> Result<Option<(u32, BackendEntry)>, Error> {
        let outcome = &self.trace.outcome;
        if let Some(slot) = outcome.counted {
            return Ok(facts::backend(self.live, slot)?.map(|entry| (slot, entry)));
        }
        let named = outcome.steps.last().and_then(|step| {
            let inner = decode(&step.frame)
                .into_iter()
                .filter(|layer| layer.name == "Ethernet")
                .nth(1)?;
            let start: [u8; 6] = step
                .frame
                .get(inner.offset..inner.offset + 6)?
                .try_into()
                .ok()?;
            mac::backend_of(start)
        });
        let named = named.or(outcome.reply.map(|(_, entry)| entry.backend));
        let Some(id) = named else {
            return Ok(None);
        };
        for slot in self.facts().backend_slots(self.live)? {
            if let Some(entry) = facts::backend(self.live, slot)?
                && entry.id == id
            {
                return Ok(Some((slot, entry)));
            }
        }
        Ok(None)
    }

    fn frontend(&self, lines: &mut Lines) -> Value {
        let facts = self.facts();
        let at = socket(facts.key.destination, facts.key.destination_port_be);
        let Some(entry) = facts.frontend else {
            let text = if facts.is_vip && has_ports(facts.key.protocol) {
                format!("{at} is a VIP's, and no service answers at this port")
            } else if facts.is_vip {
                format!("{} is a VIP", at.ip())
            } else {
                format!("{at} is nobody's frontend: no VIP of this node")
            };
            lines.add("frontend", text);
            return Value::Null;
        };
        let scope = if entry.flags & FRONTEND_NODE_PORT != 0 {
            "nodePort"
        } else if entry.flags & FRONTEND_EXTERNAL != 0 {
            "external"
        } else {
            "cluster"
        };
        let text = match scope {
            "nodePort" => format!("{at} is a node port"),
            "external" if entry.key.prefix != 0 => {
                format!(
                    "{at} is of the VIP {}",
                    range_text(range_of_key(&entry.key))
                )
            }
            "external" => format!("{at} is a VIP's"),
            _ => format!("{at} is a ClusterIP's: translated for sockets, not for packets"),
        };
        lines.add("frontend", text);
        json!({
            "address": at.ip(),
            "port": at.port(),
            "scope": scope,
            "vip": range_text(range_of_key(&entry.key)),
            "announcedHere": entry.flags & FRONTEND_ANNOUNCED != 0,
        })
    }

    fn service(&self, lines: &mut Lines) -> Value {
        let Some(service) = self.facts().service else {
            return Value::Null;
        };
        let name = self.service_name(service.id);
        let scheduler = scheduler_name(&service);
        let mut text = format!("{name}, scheduler {scheduler}");
        if service.flags & SERVICE_NOTED != 0 {
            text.push_str(", every flow is noted");
        }
        if service.flags & SERVICE_AFFINITY != 0 {
            text.push_str(&format!(
                ", clients keep their backend for {} s",
                service.affinity_seconds
            ));
        }
        lines.add("service", text);
        if let Some(is_allowed) = self.facts().is_source_allowed {
            let text = if is_allowed {
                "the client is in the service's source ranges"
            } else {
                "the client is in none of the service's source ranges"
            };
            lines.add("source", text);
        }
        json!({
            "id": service.id,
            "name": self.names.service(service.id),
            "scheduler": scheduler,
            "tracked": service.flags & SERVICE_NOTED != 0,
            "localOnly": service.flags & SERVICE_EXTERNAL_LOCAL != 0,
            "sourceAllowed": self.facts().is_source_allowed,
        })
    }

    fn slot(&self, lines: &mut Lines) -> Result<Value, Error> {
        let facts = self.facts();
        let Some(service) = facts.service else {
            return Ok(Value::Null);
        };
        let Some(slot) = facts.table_slot else {
            let text = if service.flags & SERVICE_EXTERNAL_LOCAL != 0 {
                "the service has no backend on this node, and may use no other"
            } else {
                "the service has no backend"
            };
            lines.add("slot", text);
            return Ok(Value::Null);
        };
        let of = if service.flags & (SERVICE_SOURCE_HASH | SERVICE_AFFINITY) != 0 {
            "the client's address"
        } else if service.flags & SERVICE_DESTINATION_HASH != 0 {
            "the destination's address"
        } else {
            "the flow"
        };
        let (current, current_text) = self.backend(slot.current)?;
        let mut text = format!(
            "hash {:#010x} of {of} finds slot {} of {}, which is {} and names {current_text}",
            facts.hash,
            slot.index,
            slot.length,
            slot.state.name(),
        );
        let base = match slot.base {
            Some(base) => {
                let (value, base_text) = self.backend(base)?;
                text.push_str(&format!("; before it was {base_text}"));
                value
            }
            None => Value::Null,
        };
        lines.add("slot", text);
        if let Some(turn) = facts.turn {
            lines.add("turn", format!("new flows get slot {turn} next"));
        }
        Ok(json!({
            "index": slot.index,
            "length": slot.length,
            "state": slot.state.name(),
            "current": current,
            "base": base,
            "turn": facts.turn,
        }))
    }

    fn flow(&self, lines: &mut Lines) -> Value {
        let (before, after) = (self.facts().flow, self.trace.outcome.flow);
        match (before, after) {
            (None, None) if self.facts().service.is_some() => {
                lines.add("flow", "not noted, and would not be by this packet");
            }
            (None, None) => {}
            (None, Some(entry)) => lines.add(
                "flow",
                format!("not noted; would be, as {}", flow_state(&entry)),
            ),
            (Some(_), None) => lines.add("flow", "noted; the entry would be removed"),
            (Some(before), Some(after)) => {
                let (old, new) = (flow_state(&before), flow_state(&after));
                let change = if old == new {
                    String::new()
                } else {
                    format!("; would be {new}")
                };
                let text = format!(
                    "noted as {old} for {} with {} packets{change}",
                    self.backend_name(before.backend),
                    before.packets,
                );
                lines.add("flow", text);
            }
        }
        json!({
            "before": before.map(|entry| self.flow_json(&entry)),
            "after": after.map(|entry| self.flow_json(&entry)),
        })
    }

    fn flow_json(&self, entry: &TrackEntry) -> Value {
        json!({
            "backend": entry.backend,
            "name": self.names.backend(entry.backend),
            "state": flow_state(entry),
            "isGuess": entry.flags & FLOW_GUESSED != 0,
            "natPort": (entry.nat_port_be != 0).then(|| u16::from_be(entry.nat_port_be)),
            "packets": entry.packets,
            "bytes": entry.bytes,
        })
    }

    /// The backend that was picked, and by what.
    fn pick(
        &self,
        lines: &mut Lines,
        picked: Option<&(u32, BackendEntry)>,
    ) -> Result<Value, Error> {
        let Some((slot, entry)) = picked else {
            return Ok(Value::Null);
        };
        let (value, text) = self.backend(*slot)?;
        lines.add("backend", format!("{text}: {}", self.why(*slot, entry)));
        Ok(value)
    }

    fn why(&self, slot: u32, entry: &BackendEntry) -> &'static str {
        let facts = self.facts();
        let (Some(service), Some(table_slot)) = (facts.service, facts.table_slot) else {
            return "what the frame names";
        };
        if facts.flow.is_some_and(|flow| flow.backend == entry.id) {
            return "the flow's entry says so";
        }
        let is_new = self.trace.outcome.flow.is_some();
        if is_new
            && facts
                .affinity
                .is_some_and(|affinity| affinity.backend == entry.id)
        {
            return "the client had it last";
        }
        if is_new && service.flags & SERVICE_IN_TURN != 0 {
            return "it was its turn";
        }
        if is_new && service.flags & SERVICE_LEAST_LOAD != 0 {
            return "it has the least load";
        }
        match table_slot.state {
            SlotState::Moving if table_slot.base == Some(slot) => {
                "the slot is moving, and a connection that is not noted belongs to who had it before"
            }
            SlotState::Moving => "the slot is moving, and this is who has it now",
            SlotState::Settling => "the flow is not noted, and this is who has the slot now",
            SlotState::Stable if table_slot.current == slot => "the slot says so",
            SlotState::Stable => "another backend of the service that is here",
        }
    }

    /// The backend in `slot`, as JSON and in words.
    fn backend(&self, slot: u32) -> Result<(Value, String), Error> {
        let Some(entry) = facts::backend(self.live, slot)? else {
            return Ok((Value::Null, "a backend that is gone".to_owned()));
        };
        let at = socket(entry.address, entry.port_be);
        let node = match facts::node(self.live, entry.node)? {
            _ if entry.node == NODE_LOCAL => None,
            Some(node) => self.names.node(node.id).or(Some(node.id.to_string())),
            None => None,
        };
        let place = if entry.flags & BACKEND_SERVER != 0 {
            "outside".to_owned()
        } else {
            node.map_or_else(|| "here".to_owned(), |node| format!("on {node}"))
        };
        let state_word = facts::backend_state(&entry);
        let state = match state_word {
            "active" => String::new(),
            word => format!(", {word}"),
        };
        let text = format!("{} ({at}, {place}{state})", self.backend_name(entry.id));
        let value = json!({
            "id": entry.id,
            "name": self.names.backend(entry.id),
            "address": at.ip(),
            "port": at.port(),
            "node": facts::node(self.live, entry.node)?
                .filter(|_| entry.node != NODE_LOCAL)
                .and_then(|node| self.names.node(node.id)),
            "isLocal": entry.node == NODE_LOCAL,
            "isServer": entry.flags & BACKEND_SERVER != 0,
            "state": state_word,
        });
        Ok((value, text))
    }

    fn service_name(&self, id: u32) -> String {
        let named = self.names.service(id);
        named.unwrap_or_else(|| format!("service {id}"))
    }

    fn backend_name(&self, id: u32) -> String {
        let named = self.names.backend(id);
        named.unwrap_or_else(|| format!("backend {id}"))
    }
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP)
}

fn socket(address: Address, port_be: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(address), u16::from_be(port_be))
}

/// What a service's flags say of its scheduler, where the control plane's word is not needed.
fn scheduler_name(service: &ServiceEntry) -> &'static str {
    if service.flags & SERVICE_IN_TURN != 0 {
        return "in turn (rr, wrr)";
    }
    if service.flags & SERVICE_LEAST_LOAD != 0 {
        return match service.scheduler() {
            SCHEDULER_LEAST_CONNECTIONS => "lc",
            SCHEDULER_SHORTEST_EXPECTED_DELAY => "sed",
            SCHEDULER_NEVER_QUEUE => "nq",
            _ => "wlc",
        };
    }
    if service.flags & SERVICE_SOURCE_HASH != 0 {
        return "sh";
    }
    if service.flags & SERVICE_DESTINATION_HASH != 0 {
        return "dh";
    }
    "maglev"
}

/// What a flow's entry says of it.
pub fn flow_state(entry: &TrackEntry) -> &'static str {
    match entry.state {
        FLOW_OPENING => "opening",
        FLOW_ESTABLISHED => "established",
        FLOW_CLOSING => "closing",
        FLOW_DATAGRAMS => "datagrams",
        _ => "unknown",
    }
}
