//! Taking what a Service asks for, or choosing for it, from what is free.

use std::{collections::BTreeSet, net::IpAddr};

use fairlead_api::{
    Index,
    claims::{Claim, Holder},
    status::FieldError,
};
use fairlead_store::{Expect, Key, Op, Snapshot};
use serde_json::{Value, json};

use super::{
    Refused, holder, needs_address, needs_health_check, needs_node_ports, number, ports, ports_mut,
    protocol, text, texts,
};
use crate::{
    addresses::{AddressRange, Family, NODE_PORTS, ServiceRanges, choose_node_port},
    metadata,
    subject::Subject,
};

/// Gives a claim back.
pub(super) fn release_op(claim: &Claim) -> Op {
    Op::Delete {
        key: Key::raw(claim.key()),
        expect: Expect::Any,
    }
}

/// What is taken for one Service.
pub(super) struct Allocation<'a> {
    snapshot: &'a Snapshot,
    holder: &'a Holder,
    /// What it holds already.
    held: &'a BTreeSet<Claim>,
    /// What it takes besides.
    taken: BTreeSet<Claim>,
    /// Takes it, to be committed with the Service.
    pub(super) ops: Vec<Op>,
}

impl<'a> Allocation<'a> {
    pub(super) fn new(
        snapshot: &'a Snapshot,
        holder: &'a Holder,
        held: &'a BTreeSet<Claim>,
    ) -> Self {
        Self {
            snapshot,
            holder,
            held,
            taken: BTreeSet::new(),
            ops: Vec::new(),
        }
    }

    /// An address of each of the Service's families, unless it is headless.
    pub(super) fn addresses(
        &mut self,
        ranges: &ServiceRanges,
        service: &mut Value,
    ) -> Result<(), Refused> {
        if !needs_address(service) {
            return Ok(());
        }
        if text(service, "clusterIP") == "None" {
            metadata::member_mut(service, "spec").insert("clusterIPs".to_owned(), json!(["None"]));
            return Ok(());
        }
        let asked = texts(service, "clusterIPs");
        let families = texts(service, "ipFamilies");
        let mut addresses = Vec::new();
        for (position, family) in families.iter().enumerate() {
            let range = Family::named(family).and_then(|family| ranges.of(family));
            let range = range.expect("families were chosen from those there are");
            let address = match asked.get(position) {
                Some(asked) => self.requested(range, position, asked)?,
                None => self.chosen(range)?,
            };
            addresses.push(address.to_string());
        }
        let spec = metadata::member_mut(service, "spec");
        spec.insert("clusterIP".to_owned(), addresses[0].as_str().into());
        spec.insert("clusterIPs".to_owned(), json!(addresses));
        Ok(())
    }

    fn chosen(&mut self, range: &AddressRange) -> Result<IpAddr, Refused> {
        let address = range
            .choose(|address| self.is_taken(&Claim::Address(address)))
            .ok_or(Refused::Exhausted("failed to allocate a serviceIP"))?;
        self.take(Claim::Address(address));
        Ok(address)
    }

    fn requested(
        &mut self,
        range: &AddressRange,
        position: usize,
        asked: &str,
    ) -> Result<IpAddr, Refused> {
        let refuse = |why: String| {
            let field = format!("spec.clusterIPs[{position}]");
            Refused::Field(FieldError::invalid(field, json!([asked]), &why))
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
        if self.is_taken(&claim) {
            return Err(refuse(format!(
                "failed to allocate IP {asked}: provided IP is already allocated"
            )));
        }
        self.take(claim);
        Ok(address)
    }

    /// A port of every node for each port of the Service that wants one. A port that is asked for
    /// is taken also where none would be chosen.
    pub(super) fn node_ports(&mut self, service: &mut Value) -> Result<(), Refused> {
        // Asked ones first, so that no automatic choice takes what a later port asks for.
        for (index, port) in ports(service).iter().enumerate() {
            if let Some(asked) = number(port, "nodePort") {
                let field = format!("spec.ports[{index}].nodePort");
                self.requested_port(protocol(port), asked, field)?;
            }
        }
        if !needs_node_ports(service) {
            return Ok(());
        }
        for index in 0..ports(service).len() {
            let port = &ports(service)[index];
            if number(port, "nodePort").is_some() {
                continue;
            }
            let (protocol, of) = (protocol(port).to_owned(), port["port"].clone());
            // A port that is served by several protocols is one number, where that is free.
            let same = ports(service)
                .iter()
                .filter(|other| other["port"] == of)
                .find_map(|other| u16::try_from(number(other, "nodePort")?).ok())
                .filter(|number| !self.is_taken(&Claim::node_port(&protocol, *number)));
            let number = match same {
                Some(number) => number,
                None => self.free_port(&protocol)?,
            };
            self.take(Claim::node_port(&protocol, number));
            ports_mut(service)[index]["nodePort"] = number.into();
        }
        Ok(())
    }

    /// The port at which balancers outside ask a node whether it has backends.
    pub(super) fn health_check_node_port(&mut self, service: &mut Value) -> Result<(), Refused> {
        if !needs_health_check(service) {
            return Ok(());
        }
        let field = "healthCheckNodePort";
        if let Some(asked) = number(&service["spec"], field) {
            return self.requested_port("TCP", asked, format!("spec.{field}"));
        }
        let number = self.free_port("TCP")?;
        self.take(Claim::node_port("TCP", number));
        metadata::member_mut(service, "spec").insert(field.to_owned(), number.into());
        Ok(())
    }

    fn free_port(&self, protocol: &str) -> Result<u16, Refused> {
        choose_node_port(|number| self.is_taken(&Claim::node_port(protocol, number)))
            .ok_or(Refused::Exhausted("failed to allocate a nodePort"))
    }

    fn requested_port(&mut self, protocol: &str, asked: u64, field: String) -> Result<(), Refused> {
        let claim = u16::try_from(asked)
            .ok()
            .map(|number| (number, Claim::node_port(protocol, number)));
        let why = match claim {
            // Whatever it holds it keeps, even should the range have changed.
            Some((_, claim)) if self.held.contains(&claim) => return Ok(()),
            Some((number, claim)) if NODE_PORTS.contains(&number) => {
                if !self.is_taken(&claim) {
                    self.take(claim);
                    return Ok(());
                }
                "provided port is already allocated".to_owned()
            }
            _ => format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            ),
        };
        Err(Refused::Field(FieldError::invalid(field, asked, &why)))
    }

    fn is_taken(&self, claim: &Claim) -> bool {
        self.held.contains(claim)
            || self.taken.contains(claim)
            || holder(claim, self.snapshot)
                .is_some_and(|(holder, _)| self.still_holds(&holder, claim))
    }

    /// Whether the Service that took a claim still exists and holds it. A claim outlives its
    /// Service only if something removed the Service without its claims; it is free then.
    fn still_holds(&self, holder: &Holder, claim: &Claim) -> bool {
        let service = Subject {
            resource: &fairlead_api::resource::SERVICE,
            namespace: Some(&holder.namespace),
            name: &holder.name,
        };
        self.snapshot
            .get(&service.key())
            .and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok())
            .is_some_and(|service| Claim::of_service(&service).contains(claim))
    }

    fn take(&mut self, claim: Claim) {
        let expect = holder(&claim, self.snapshot).map_or(Expect::Absent, |(_, expect)| expect);
        self.ops.push(Op::Put {
            key: Key::raw(claim.key()),
            expect,
            value: self.holder.encode(),
            index: Index::default().into(),
        });
        self.taken.insert(claim);
    }
}
