//! Who answers at which address and port.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use fairlead_api::{ServiceId, VpcId};
use fairlead_dataplane_common::{
    FRONTEND_ADDRESS, FRONTEND_ANNOUNCED, FRONTEND_CLUSTER, FRONTEND_EXTERNAL, FRONTEND_NODE_PORT,
    FRONTEND_USED, FrontendEntry, FrontendKey,
};

use super::{Full, Planner};
use ipnetwork::IpNetwork;

use crate::action::Action;
use crate::cuckoo;
use crate::desired::{DEFAULT_NETWORK, FrontendAt, Touched, single};
use crate::observed::Prefix;

impl Planner<'_> {
    /// The writes to the bank of frontends.
    pub(super) fn plan_frontends(&mut self, touched: &Touched) -> Result<Vec<cuckoo::Write>, Full> {
        let slots: HashMap<ServiceId, u32> = self
            .services
            .iter()
            .map(|(slot, entry)| (ServiceId(entry.id), *slot))
            .collect();
        let mut places = touched.frontends.clone();
        for &(is_v4, protocol, port) in &touched.node_ports {
            let of_family = |address: &IpAddr| address.is_ipv4() == is_v4;
            let own = self.desired.own_addresses().filter(of_family);
            places.extend(own.map(|address| (DEFAULT_NETWORK, address.into(), protocol, port)));
        }
        let mut addresses = touched.addresses.clone();
        addresses.extend(touched.frontends.iter().map(|place| (place.0, place.1)));
        let wanted: BTreeMap<FrontendAt, Option<FrontendEntry>> = places
            .into_iter()
            .map(|place| (place, self.frontend_entry(place, &slots)))
            .chain(
                addresses
                    .into_iter()
                    .map(|(vpc, vip)| ((vpc, vip, 0, 0), self.address_entry(vpc, vip))),
            )
            .collect();
        let mut table = self.observed.frontends(self.observed.active()).clone();
        let mut writes = Vec::new();
        // Room is made before it is taken.
        for (place, _) in wanted.iter().filter(|(_, entry)| entry.is_none()) {
            writes.extend(table.remove(&key_of(place)));
        }
        for entry in wanted.into_values().flatten() {
            let added = table.insert(entry).map_err(|full| Full {
                what: "frontends",
                wanted: full.entries as u64 + 1,
                capacity: full.entries as u64,
            })?;
            writes.extend(added);
        }
        Ok(writes)
    }

    /// Where packets find out that they are for a prefix. It is the same in both banks: one that is new
    /// has no frontend yet in the bank in force, and one that goes keeps them until the flip.
    pub(super) fn plan_vip_prefixes(&mut self, touched: &Touched) {
        let of_frontends = touched.frontends.iter().map(|place| (place.0, place.1));
        let vips: BTreeSet<(VpcId, IpNetwork)> = of_frontends
            .chain(touched.addresses.iter().copied())
            .filter(|(_, vip)| single(*vip).is_none())
            .collect();
        for vip in vips {
            let prefix = Prefix::new(vip.0.0, vip.1);
            let is_wanted = self.desired.vip_prefixes.contains_key(&vip);
            match (is_wanted, self.observed.vip_prefixes.contains(&prefix)) {
                (true, false) => self.plan.enter.push(Action::AddVipPrefix { prefix }),
                (false, true) => self.plan.leave.push(Action::RemoveVipPrefix { prefix }),
                (true, true) | (false, false) => {}
            }
        }
    }

    /// Who answers at a place, if anybody does.
    fn frontend_entry(
        &self,
        place: FrontendAt,
        slots: &HashMap<ServiceId, u32>,
    ) -> Option<FrontendEntry> {
        let (vpc, range, protocol, port) = place;
        // An address of this node itself, which other programs of the node use as well.
        let is_own = vpc == DEFAULT_NETWORK && single(range).is_some_and(|own| self.is_own(own));
        let (service, flags) = match self.desired.frontends.get(&place) {
            Some(answer) if answer.external && is_own => {
                (answer.service, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT)
            }
            Some(answer) if answer.external => (answer.service, FRONTEND_EXTERNAL),
            Some(answer) => (answer.service, FRONTEND_CLUSTER),
            None if is_own => {
                let node_port = (range.is_ipv4(), protocol, port);
                let service = *self.desired.node_ports.get(&node_port)?;
                (service, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT)
            }
            None => return None,
        };
        let held = || self.observed.service(service).map(|(slot, _)| slot);
        let slot = slots.get(&service).copied().or_else(held);
        Some(FrontendEntry {
            key: key_of(&place),
            service: slot.expect("a service with a frontend has a slot by now"),
            flags: FRONTEND_USED | flags,
        })
    }

    /// What stands for a VIP itself, if it is one. An address of this node's is none: its other
    /// ports are for the node, and so are its neighbours' questions. A prefix is never announced.
    fn address_entry(&self, vpc: VpcId, vip: IpNetwork) -> Option<FrontendEntry> {
        let is_default = vpc == DEFAULT_NETWORK;
        let (is_vip, is_announced) = match single(vip) {
            Some(address) => (
                self.desired.vips.contains_key(&(vpc, address))
                    && !(is_default && self.is_own(address)),
                is_default && self.desired.announces(address),
            ),
            None => (self.desired.vip_prefixes.contains_key(&(vpc, vip)), false),
        };
        if !is_vip {
            return None;
        }
        let announced = if is_announced { FRONTEND_ANNOUNCED } else { 0 };
        Some(FrontendEntry {
            key: key_of(&(vpc, vip, 0, 0)),
            service: 0,
            flags: FRONTEND_USED | FRONTEND_ADDRESS | announced,
        })
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.desired.own_addresses().any(|own| own == address)
    }
}

fn key_of(place: &FrontendAt) -> FrontendKey {
    let &(vpc, range, protocol, port) = place;
    let key = FrontendKey::new(vpc.0, range.network().into(), protocol, port.to_be());
    if single(range).is_some() {
        return key;
    }
    key.at_prefix(&Prefix::new(vpc.0, range).vip())
}
