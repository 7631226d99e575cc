//! What a Service gets from the cluster when it is written: its address and its node ports.

use std::{collections::BTreeSet, net::IpAddr};

use fairlead_api::status::{FieldError, Status};
use fairlead_store::{Expect, Op, Snapshot};
use serde_json::{Value, json};

use crate::{
    addresses::{AddressRange, Claim, Holder, NODE_PORTS, choose_node_port},
    metadata,
    subject::Subject,
};

fn service_type(service: &Value) -> &str {
    service
        .pointer("/spec/type")
        .and_then(Value::as_str)
        .unwrap_or("ClusterIP")
}

fn cluster_ip(service: &Value) -> &str {
    let at = |pointer| {
        service
            .pointer(pointer)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    at("/spec/clusterIP")
        .or_else(|| at("/spec/clusterIPs/0"))
        .unwrap_or_default()
}

fn needs_address(service: &Value) -> bool {
    service_type(service) != "ExternalName" && cluster_ip(service) != "None"
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

fn node_port(port: &Value) -> Option<u64> {
    port.get("nodePort")
        .and_then(Value::as_u64)
        .filter(|&port| port != 0)
}

fn protocol(port: &Value) -> &str {
    port.get("protocol")
        .and_then(Value::as_str)
        .unwrap_or("TCP")
}

/// All that a stored Service holds.
fn claims(service: &Value) -> BTreeSet<Claim> {
    let address = cluster_ip(service).parse().ok().map(Claim::Address);
    let node_ports = ports(service)
        .iter()
        .filter_map(node_port)
        .filter_map(|port| u16::try_from(port).ok())
        .map(Claim::NodePort);
    address.into_iter().chain(node_ports).collect()
}

/// Keeps what the Service was given when a replacement leaves it out, and drops what its new type
/// has no use for. Before validation, which refuses a changed address.
pub(crate) fn inherit(old: &Value, new: &mut Value) {
    let both_addressed = service_type(old) != "ExternalName" && service_type(new) != "ExternalName";
    if both_addressed && cluster_ip(new).is_empty() {
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old.pointer(&format!("/spec/{field}")) {
                metadata::member_mut(new, "spec").insert(field.to_owned(), value.clone());
            }
        }
    }
    if service_type(new) == "ExternalName" && cluster_ip(new) == cluster_ip(old) {
        let spec = metadata::member_mut(new, "spec");
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.shift_remove(field);
        }
    }
    let needed = needs_node_ports(new);
    let held = |port: &Value| {
        ports(old)
            .iter()
            .find(|old| old.get("port") == port.get("port") && protocol(old) == protocol(port))
            .and_then(node_port)
    };
    let mut used: BTreeSet<u64> = ports(new).iter().filter_map(node_port).collect();
    for port in ports_mut(new) {
        match (needed, node_port(port), held(port)) {
            (true, None, Some(held)) if used.insert(held) => port["nodePort"] = held.into(),
            (false, Some(asked), Some(held)) if asked == held => {
                if let Some(port) = port.as_object_mut() {
                    port.shift_remove("nodePort");
                }
            }
            _ => {}
        }
    }
}

/// Fills in the address and the node ports `new` needs and has not, and returns the operations
/// that take and release them, to be committed with the Service.
pub(crate) fn allocate(
    snapshot: &Snapshot,
    range: &AddressRange,
    subject: &Subject<'_>,
    old: Option<&Value>,
    new: &mut Value,
) -> Result<Vec<Op>, Status> {
    let holder = Holder {
        namespace: subject.namespace.unwrap_or_default().to_owned(),
        name: subject.name.to_owned(),
    };
    let held = old.map(claims).unwrap_or_default();
    let mut allocation = Allocation {
        snapshot,
        holder: &holder,
        held: &held,
        taken: BTreeSet::new(),
        ops: Vec::new(),
    };
    allocation.address(range, subject, new)?;
    allocation.node_ports(subject, new)?;
    let mut ops = allocation.ops;
    let kept = claims(new);
    ops.extend(held.difference(&kept).map(|claim| claim.release()));
    Ok(ops)
}

/// The operations that give back what a Service that goes away holds.
pub(crate) fn release(service: &Value) -> Vec<Op> {
    claims(service).into_iter().map(Claim::release).collect()
}

struct Allocation<'a> {
    snapshot: &'a Snapshot,
    holder: &'a Holder,
    held: &'a BTreeSet<Claim>,
    /// What this Service takes besides.
    taken: BTreeSet<Claim>,
    ops: Vec<Op>,
}

impl Allocation<'_> {
    fn address(
        &mut self,
        range: &AddressRange,
        subject: &Subject<'_>,
        service: &mut Value,
    ) -> Result<(), Status> {
        if !needs_address(service) {
            if cluster_ip(service) == "None" {
                let spec = metadata::member_mut(service, "spec");
                spec.insert("clusterIP".to_owned(), "None".into());
                spec.insert("clusterIPs".to_owned(), json!(["None"]));
            }
            return Ok(());
        }
        let asked = cluster_ip(service);
        let address = if asked.is_empty() {
            let address = range
                .choose(|address| self.is_taken(Claim::Address(address)))
                .ok_or_else(|| {
                    Status::internal("failed to allocate a serviceIP: range is full".to_owned())
                })?;
            self.take(Claim::Address(address));
            address
        } else {
            self.requested(range, subject, asked)?
        };
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let spec = metadata::member_mut(service, "spec");
        spec.insert("clusterIP".to_owned(), address.to_string().into());
        spec.insert("clusterIPs".to_owned(), json!([address.to_string()]));
        spec.insert("ipFamilies".to_owned(), json!([family]));
        spec.entry("ipFamilyPolicy").or_insert("SingleStack".into());
        Ok(())
    }

    fn requested(
        &mut self,
        range: &AddressRange,
        subject: &Subject<'_>,
        asked: &str,
    ) -> Result<IpAddr, Status> {
        let refuse = |why: String| {
            invalid(
                subject,
                "spec.clusterIPs",
                format!("Invalid value: [{asked:?}]: {why}"),
            )
        };
        let address: IpAddr = asked
            .parse()
            .map_err(|_| refuse("must be a valid IP address".to_owned()))?;
        let claim = Claim::Address(address);
        if self.held.contains(&claim) {
            return Ok(address);
        }
        if !range.contains(address) {
            return Err(refuse(format!(
                "failed to allocate IP {asked}: the provided IP ({asked}) is not in the valid range. \
                 The range of valid IPs is {}",
                range.network()
            )));
        }
        if self.is_taken(claim) {
            return Err(refuse(format!(
                "failed to allocate IP {asked}: provided IP is already allocated"
            )));
        }
        self.take(claim);
        Ok(address)
    }

    fn node_ports(&mut self, subject: &Subject<'_>, service: &mut Value) -> Result<(), Status> {
        if !needs_node_ports(service) {
            return Ok(());
        }
        // Asked ones first, so that no automatic choice takes what a later port asks for.
        for (index, port) in ports(service).iter().enumerate() {
            let Some(asked) = node_port(port) else {
                continue;
            };
            let refuse = |why: String| {
                invalid(
                    subject,
                    &format!("spec.ports[{index}].nodePort"),
                    format!("Invalid value: {asked}: {why}"),
                )
            };
            let claim = u16::try_from(asked)
                .ok()
                .filter(|port| NODE_PORTS.contains(port))
                .map(Claim::NodePort)
                .ok_or_else(|| {
                    refuse(format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        NODE_PORTS.start(),
                        NODE_PORTS.end()
                    ))
                })?;
            // TCP and UDP of one Service may share a number.
            if self.held.contains(&claim) || self.taken.contains(&claim) {
                continue;
            }
            if self.is_taken(claim) {
                return Err(refuse("provided port is already allocated".to_owned()));
            }
            self.take(claim);
        }
        for port in ports_mut(service) {
            if node_port(port).is_none() {
                let number = choose_node_port(|port| self.is_taken(Claim::NodePort(port)))
                    .ok_or_else(|| {
                        Status::internal("failed to allocate a nodePort: range is full".to_owned())
                    })?;
                self.take(Claim::NodePort(number));
                port["nodePort"] = number.into();
            }
        }
        Ok(())
    }

    fn is_taken(&self, claim: Claim) -> bool {
        self.held.contains(&claim)
            || self.taken.contains(&claim)
            || claim
                .holder(self.snapshot)
                .is_some_and(|(holder, _)| self.still_holds(&holder, claim))
    }

    /// Whether the Service that took a claim still exists and holds it. A claim outlives its
    /// Service only if something removed the Service without its claims; it is free then.
    fn still_holds(&self, holder: &Holder, claim: Claim) -> bool {
        let service = Subject {
            resource: &fairlead_api::resource::SERVICE,
            namespace: Some(&holder.namespace),
            name: &holder.name,
        };
        self.snapshot
            .get(&service.key())
            .and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok())
            .is_some_and(|service| claims(&service).contains(&claim))
    }

    fn take(&mut self, claim: Claim) {
        let expect = claim
            .holder(self.snapshot)
            .map_or(Expect::Absent, |(_, expect)| expect);
        self.ops.push(claim.take(self.holder, expect));
        self.taken.insert(claim);
    }
}

fn invalid(subject: &Subject<'_>, field: &str, message: String) -> Status {
    Status::invalid(
        subject.resource,
        subject.name,
        vec![FieldError {
            reason: "FieldValueInvalid",
            field: field.to_owned(),
            message,
        }],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacement_that_leaves_out_what_was_given_keeps_it() {
        let old = json!({"spec": {
            "type": "NodePort", "clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}],
        }});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [
            {"port": 443, "protocol": "TCP"}, {"port": 80, "protocol": "TCP"},
        ]}});
        inherit(&old, &mut new);
        assert_eq!(new["spec"]["clusterIP"], "10.96.3.4");
        assert_eq!(new["spec"]["ports"][1]["nodePort"], 30080);
        assert_eq!(new["spec"]["ports"][0].get("nodePort"), None);
    }

    #[test]
    fn type_without_node_ports_drops_them() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.3.4",
            "ports": [{"port": 80, "nodePort": 30080}]}});
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        inherit(&old, &mut new);
        assert_eq!(new["spec"]["ports"][0].get("nodePort"), None);
        assert_eq!(claims(&new).len(), 1);
    }

    #[test]
    fn external_name_gives_its_address_back() {
        let old = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.96.3.4",
            "clusterIPs": ["10.96.3.4"]}});
        let mut new = old.clone();
        new["spec"]["type"] = "ExternalName".into();
        inherit(&old, &mut new);
        assert!(claims(&new).is_empty());
    }
}
