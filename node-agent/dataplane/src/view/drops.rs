//! What was dropped, and what was counted beside.

use std::collections::BTreeMap;

use fairlead_dataplane_common::{Counter, DropReason, DropSample};
use serde_json::{Value, json};

use super::{Node, flows::is_named};
use crate::Error;
use crate::state::State;
use crate::trace::explain::{Names, frame_json};

/// Every reason, with what each service lost by it, and the last packets.
pub(super) fn drops(state: &State, node: &Node<'_>) -> Result<Value, Error> {
    let tables = &state.loaded.tables;
    let samples = tables.drop_samples()?;
    let last = |reason, slot| {
        let sample = samples.get(&(reason, slot));
        sample.map(|sample| packet(node, sample))
    };
    let mut by_reason: BTreeMap<DropReason, Vec<Value>> = BTreeMap::new();
    for ((slot, reason), packets) in tables.drops_by_service()? {
        if packets > 0 {
            let row = json!({
                "service": service_in(state, slot),
                "packets": packets,
                "last": last(reason, Some(slot)),
            });
            by_reason.entry(reason).or_default().push(row);
        }
    }
    let mut rows = Vec::new();
    for reason in DropReason::ALL {
        let stats = tables.stats_of_drops(*reason as u32)?;
        rows.push(json!({
            "reason": reason.name(),
            "description": reason.description(),
            "packets": stats.packets,
            "bytes": stats.bytes,
            "services": by_reason.remove(reason).unwrap_or_default(),
            "last": last(*reason, None),
        }));
    }
    Ok(rows.into())
}

/// The last packet that was dropped for each reason of each service; of the `reason` and the `service`
/// that `params` name.
pub(super) fn samples(state: &State, node: &Node<'_>, params: &Value) -> Result<Value, Error> {
    let text = |name| params.get(name).and_then(Value::as_str);
    let (wanted, service) = (text("reason"), text("service"));
    let known = |name: &str| DropReason::ALL.iter().any(|reason| reason.name() == name);
    if let Some(name) = wanted.filter(|name| !known(name)) {
        return Err(Error::BadParameter {
            name: "reason",
            problem: format!("nothing is dropped for {name:?} (see `netctl drop ls --all`)"),
        });
    }
    let mut rows = Vec::new();
    for ((reason, slot), sample) in state.loaded.tables.drop_samples()? {
        let name = slot.and_then(|slot| service_in(state, slot));
        let is_asked = wanted.is_none_or(|wanted| wanted == reason.name())
            && service.is_none_or(|service| {
                let name = name.as_deref();
                name.is_some_and(|name| is_named(name, service))
            });
        if is_asked {
            let mut row = packet(node, &sample);
            row["reason"] = reason.name().into();
            row["description"] = reason.description().into();
            row["service"] = name.into();
            rows.push(row);
        }
    }
    Ok(rows.into())
}

/// A packet that was dropped: when, where, and how it begins.
fn packet(node: &Node<'_>, sample: &DropSample) -> Value {
    let captured = (sample.captured as usize).min(sample.bytes.len());
    json!({
        "ageSeconds": node.age(sample.seen_jiffies),
        "interface": interface_name(sample.ifindex),
        "length": sample.length,
        "frame": frame_json(&sample.bytes[..captured]),
    })
}

/// What is counted and is no drop.
pub(super) fn counters(state: &State) -> Result<Value, Error> {
    let mut rows = Vec::new();
    for counter in Counter::ALL {
        rows.push(json!({
            "counter": counter.name(),
            "description": counter.description(),
            "count": state.loaded.tables.count_of(*counter)?,
        }));
    }
    Ok(rows.into())
}

/// The service whose slot it is now.
fn service_in(state: &State, slot: u32) -> Option<String> {
    let services = state.observed.services(state.observed.active());
    let id = services.get(slot)?.id;
    Some(Names::service(state, id).unwrap_or_else(|| id.to_string()))
}

/// The name of an interface; its number if it has gone.
fn interface_name(ifindex: u32) -> Value {
    match nix::net::if_::if_indextoname(ifindex) {
        Ok(name) => name.to_string_lossy().into(),
        Err(_) => ifindex.into(),
    }
}
