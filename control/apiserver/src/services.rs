//! What a Service gets from the cluster when it is written: its families, its addresses and its
//! node ports.

mod allocation;
mod families;
mod inherit;

use fairlead_api::{
    claims::{Claim, Holder},
    status::{FieldError, Status},
};
use fairlead_store::{Expect, Op, Snapshot};
use serde_json::Value;

use self::allocation::{Allocation, release_op};
pub(crate) use self::inherit::inherit;
use crate::{addresses::ServiceRanges, subject::Subject};

/// Fills in the families, the addresses and the node ports `new` needs and has not, and returns the
/// operations that take and release them, to be committed with the Service.
pub(crate) fn allocate(
    snapshot: &Snapshot,
    ranges: &ServiceRanges,
    subject: &Subject<'_>,
    old: Option<&Value>,
    new: &mut Value,
) -> Result<Vec<Op>, Status> {
    let invalid = |errors| Status::invalid(subject.resource, subject.name, errors);
    families::choose(ranges, old, new).map_err(invalid)?;
    let holder = Holder {
        namespace: subject.namespace.unwrap_or_default().to_owned(),
        name: subject.name.to_owned(),
    };
    let held = old.map(Claim::of_service).unwrap_or_default();
    let mut allocation = Allocation::new(snapshot, &holder, &held);
    let allocated = allocation
        .addresses(ranges, new)
        .and_then(|()| allocation.node_ports(new))
        .and_then(|()| allocation.health_check_node_port(new));
    allocated.map_err(|refused| match refused {
        Refused::Field(error) => invalid(vec![error]),
        Refused::Exhausted(what) => Status::internal(format!("{what}: range is full")),
    })?;
    let mut ops = allocation.ops;
    let kept = Claim::of_service(new);
    ops.extend(held.difference(&kept).map(release_op));
    Ok(ops)
}

/// The operations that give back what a Service that goes away holds.
pub(crate) fn release(service: &Value) -> Vec<Op> {
    Claim::of_service(service).iter().map(release_op).collect()
}

/// Why a Service does not get what it needs.
enum Refused {
    /// What it asks for cannot be had.
    Field(FieldError),
    /// Everything is given out.
    Exhausted(&'static str),
}

/// Who holds a claim, and the condition that this is still so.
fn holder(claim: &Claim, snapshot: &Snapshot) -> Option<(Holder, Expect)> {
    let entry = snapshot.get(&fairlead_store::Key::raw(claim.key()))?;
    let holder = serde_json::from_slice(&entry.value).ok()?;
    Some((holder, Expect::Revision(entry.revision)))
}

fn service_type(service: &Value) -> &str {
    service
        .pointer("/spec/type")
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
        .unwrap_or("ClusterIP")
}

fn needs_address(service: &Value) -> bool {
    service_type(service) != "ExternalName"
}

fn needs_node_ports(service: &Value) -> bool {
    match service_type(service) {
        "NodePort" => true,
        "LoadBalancer" => {
            service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false))
        }
        _ => false,
    }
}

/// Whether balancers outside ask each node if it has backends of its own.
fn needs_health_check(service: &Value) -> bool {
    service_type(service) == "LoadBalancer" && text(service, "externalTrafficPolicy") == "Local"
}

/// The text at `spec.<field>`; empty when absent.
fn text<'a>(service: &'a Value, field: &str) -> &'a str {
    service["spec"][field].as_str().unwrap_or_default()
}

/// The texts at `spec.<field>`.
fn texts(service: &Value, field: &str) -> Vec<String> {
    let list = service["spec"][field].as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The number at `spec.<field>`; `None` when absent or, which is the same in Go, 0.
fn number(value: &Value, field: &str) -> Option<u64> {
    value[field].as_u64().filter(|number| *number != 0)
}

fn ports(service: &Value) -> &[Value] {
    service
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn ports_mut(service: &mut Value) -> &mut [Value] {
    service
        .pointer_mut("/spec/ports")
        .and_then(Value::as_array_mut)
        .map_or(&mut [], Vec::as_mut_slice)
}

fn protocol(port: &Value) -> &str {
    port.get("protocol")
        .and_then(Value::as_str)
        .unwrap_or("TCP")
}
