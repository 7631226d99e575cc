//! The part of a plan that says how others are reached: nodes of the cluster, and machines outside
//! of it. Both have slots in `nodes`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairlead_dataplane_common::{Address, NODE_SERVER, NodeEntry, maps};

use super::{Full, NODE_ELSEWHERE, Planner};
use crate::action::Action;
use crate::desired::Node;

impl Planner<'_> {
    pub(super) fn plan_nodes(&mut self) -> Result<(), Full> {
        let nodes = self.observed.nodes.iter();
        let held: BTreeMap<u32, u32> = nodes
            .filter(|(_, entry)| entry.flags & NODE_SERVER == 0)
            .map(|(slot, entry)| (entry.id, slot))
            .collect();
        let mut addresses = BTreeMap::new();
        for node in self.desired.other_nodes() {
            let slot = match held.get(&node.id) {
                Some(slot) => *slot,
                None => self.free_node()?,
            };
            let before = self.observed.nodes.get(slot);
            let entry = self.local.node_entry(node.id, node.address, before);
            self.write_node(slot, entry);
            self.node_slots.insert(node.id, slot);
            addresses.insert(Address::from(node.address), slot);
        }
        for (&address, &slot) in &addresses {
            if self.observed.node_addresses.get(&address) != Some(&slot) {
                self.plan
                    .enter
                    .push(Action::SetNodeAddress { address, slot });
            }
        }
        for &address in self.observed.node_addresses.keys() {
            if !addresses.contains_key(&address) {
                self.plan.leave.push(Action::RemoveNodeAddress { address });
            }
        }
        for (slot, entry) in self.observed.nodes.iter() {
            let is_server = entry.flags & NODE_SERVER != 0;
            if !is_server && self.node_slots.get(&entry.id) != Some(&slot) {
                self.free_slot(slot);
            }
        }
        Ok(())
    }

    /// Gives each machine outside the cluster that is a backend a slot, one for all services.
    pub(super) fn plan_servers(&mut self, touched: &BTreeSet<IpAddr>) -> Result<(), Full> {
        for &server in touched {
            let held = self.observed.servers.get(&server.into()).copied();
            if !self.desired.servers.contains_key(&server) {
                if let Some(slot) = held {
                    self.free_slot(slot);
                }
                continue;
            }
            let slot = match held {
                Some(slot) => slot,
                None => self.free_node()?,
            };
            let before = self.observed.nodes.get(slot);
            let entry = self.local.server_entry(slot, server, before);
            self.write_node(slot, entry);
            self.server_slots.insert(server, slot);
        }
        Ok(())
    }

    pub(super) fn node_slot(&self, node: &Node) -> u32 {
        let address = Address::from(node.address);
        let planned = self.node_slots.get(&node.id);
        *planned
            .or_else(|| self.observed.node_addresses.get(&address))
            .expect("a change of services alone follows a plan that has written all nodes")
    }

    /// A machine in a tenant's network has no slot: it is not reached from here.
    pub(super) fn server_slot(&self, server: IpAddr) -> u32 {
        let planned = self.server_slots.get(&server);
        let slot = planned.or_else(|| self.observed.servers.get(&server.into()));
        slot.copied().unwrap_or(NODE_ELSEWHERE)
    }

    /// Those that leave hold their slots until they have left.
    fn free_node(&mut self) -> Result<u32, Full> {
        self.free_nodes.next().ok_or_else(|| Full {
            what: "nodes and real servers",
            wanted: self.observed.nodes.count() as u64 + 1,
            capacity: u64::from(maps::NODES_MAX - 1),
        })
    }

    fn write_node(&mut self, slot: u32, entry: NodeEntry) {
        if self.observed.nodes.get(slot) != Some(&entry) {
            self.plan.enter.push(Action::WriteNode { slot, entry });
        }
    }

    fn free_slot(&mut self, slot: u32) {
        let entry = NodeEntry::default();
        self.plan.leave.push(Action::WriteNode { slot, entry });
    }
}

#[cfg(test)]
mod tests {

    use fairlead_api::Generation;
    use fairlead_dataplane_common::{BACKEND_SERVER, NODE_ADJACENT, NODE_RESOLVED};
    use fairlead_proto::node as proto;

    use super::*;
    use crate::changes::Changes;
    use crate::desired::{Desired, Scope};
    use crate::examples::{own, service, state};
    use crate::local::{Local, Way};
    use crate::observed::Observed;
    use crate::plan::{Moment, plan};

    const SERVER: [u8; 4] = [198, 18, 0, 21];
    const OTHER: [u8; 4] = [198, 18, 0, 22];

    fn local() -> Local {
        Local::new(([198, 18, 0, 101].into(), None), Vec::new(), 7, 1500)
    }

    /// Service `id`, whose backends are `servers`.
    fn served_by(id: u32, servers: &[[u8; 4]]) -> proto::Service {
        let backends = (1..).zip(servers).map(|(number, server)| proto::Backend {
            id: 100 * id + number,
            address: server.to_vec().into(),
            port: 80,
            weight: 1,
            state: proto::BackendState::Active.into(),
            ..proto::Backend::default()
        });
        proto::Service {
            backends: backends.collect(),
            ..service(id, "lvs", [198, 18, 100, id as u8], None)
        }
    }

    /// What the agent holds, as changes come.
    #[derive(Default)]
    struct Agent {
        desired: Desired,
        observed: Observed,
    }

    impl Agent {
        fn apply(&mut self, changes: &Changes, local: &Local) -> Vec<Action> {
            let (desired, scope) = self.desired.advance(changes, &own()).unwrap();
            self.desired = desired;
            self.bring(&scope, local)
        }

        fn bring(&mut self, scope: &Scope, local: &Local) -> Vec<Action> {
            let generation = Generation(1);
            let (observed, moment) = (&self.observed, Moment::default());
            let plan = plan(&self.desired, scope, local, observed, generation, moment).unwrap();
            let actions: Vec<Action> = plan.enter.into_iter().chain(plan.leave).collect();
            for action in &actions {
                self.observed.record(action);
            }
            for action in self.observed.level() {
                self.observed.record(&action);
            }
            actions
        }

        fn server(&self, address: [u8; 4]) -> Option<NodeEntry> {
            let slot = self.observed.servers.get(&IpAddr::from(address).into())?;
            self.observed.nodes.get(*slot).copied()
        }
    }

    fn services(services: impl IntoIterator<Item = (u32, Option<proto::Service>)>) -> Changes {
        Changes {
            services: services.into_iter().collect(),
            ..Changes::default()
        }
    }

    #[test]
    fn server_of_two_services_has_one_slot_until_both_are_gone() {
        let mut agent = Agent::default();
        agent.apply(&Changes::whole(state()), &local());
        let nodes = agent.observed.nodes.count();
        let both = [(8, &[SERVER, OTHER][..]), (9, &[SERVER])];
        let both = both.map(|(id, servers)| (id, Some(served_by(id, servers))));
        agent.apply(&services(both), &local());
        assert_eq!(agent.observed.nodes.count(), nodes + 2);
        let slot = agent.observed.servers[&IpAddr::from(SERVER).into()];
        for id in [801, 901] {
            let backend = agent.observed.backend_ids[&id];
            let entry = agent.observed.backends.get(backend).unwrap();
            assert_eq!((entry.node, entry.flags), (slot, BACKEND_SERVER));
        }
        agent.apply(&services([(8, None)]), &local());
        assert!(agent.server(SERVER).is_some() && agent.server(OTHER).is_none());
        agent.apply(&services([(9, None)]), &local());
        assert_eq!(agent.observed.nodes.count(), nodes);
        assert!(agent.bring(&Scope::Everything, &local()).is_empty());
    }

    #[test]
    fn server_keeps_its_slot_and_what_is_known_of_its_way() {
        let mut agent = Agent::default();
        let mut local = local();
        let way = Way {
            interface: 7,
            mtu: 1400,
            mac: Some([2, 0, 0, 0, 0, 21]),
            direct: true,
        };
        local.ways.insert(SERVER.into(), way);
        agent.apply(&Changes::whole(state()), &local);
        agent.apply(&services([(8, Some(served_by(8, &[SERVER])))]), &local);
        let entry = agent.server(SERVER).unwrap();
        let known = NODE_SERVER | NODE_RESOLVED | NODE_ADJACENT;
        assert_eq!((entry.flags & known, entry.mtu), (known, 1400));
        assert_eq!(entry.mac, [2, 0, 0, 0, 0, 21]);
        // As after a restart: the neighbour table has not been read yet.
        local.ways.clear();
        assert!(agent.bring(&Scope::Everything, &local).is_empty());
    }

    #[test]
    fn server_is_sent_to_at_once_only_by_the_interface_that_leads_there() {
        const UPLINK: u32 = 7;
        const VLAN: u32 = 9;
        // Whether there is one uplink, where the server is, and what XDP sends on at once to it.
        let cases = [
            (true, UPLINK, [true, true]),
            (true, VLAN, [false, true]),
            (false, UPLINK, [true, false]),
        ];
        for (has_one_uplink, interface, sends) in cases {
            let mut agent = Agent::default();
            let mut local = local();
            local.has_one_uplink = has_one_uplink;
            let way = Way {
                interface,
                mtu: 1500,
                mac: Some([2, 0, 0, 0, 0, 21]),
                direct: true,
            };
            local.ways.insert(SERVER.into(), way);
            agent.apply(&Changes::whole(state()), &local);
            agent.apply(&services([(8, Some(served_by(8, &[SERVER])))]), &local);
            let entry = agent.server(SERVER).unwrap();
            let taken = [UPLINK, VLAN].map(|from| entry.takes_from(from));
            assert_eq!(taken, sends, "{way:?}");
            let unresolved = Way { mac: None, ..way };
            local.ways.insert(SERVER.into(), unresolved);
            agent.bring(&Scope::Everything, &local);
            assert!(!agent.server(SERVER).unwrap().takes_from(interface));
        }
    }

    #[test]
    fn node_and_server_at_one_address_have_slots_of_their_own() {
        let mut agent = Agent::default();
        agent.apply(&Changes::whole(state()), &local());
        let address = [198, 18, 0, 102];
        agent.apply(&services([(8, Some(served_by(8, &[address])))]), &local());
        let server = agent.observed.servers[&IpAddr::from(address).into()];
        let node = agent.observed.node_addresses[&IpAddr::from(address).into()];
        assert_ne!(server, node);
        assert!(agent.bring(&Scope::Everything, &local()).is_empty());
    }

    #[test]
    fn server_of_a_tenants_network_is_not_reached() {
        let mut agent = Agent::default();
        agent.apply(&Changes::whole(state()), &local());
        let mut tenant = served_by(8, &[SERVER]);
        tenant.vpc = 5;
        agent.apply(&services([(8, Some(tenant))]), &local());
        assert_eq!(agent.server(SERVER), None);
        let backend = agent
            .observed
            .backends
            .get(agent.observed.backend_ids[&801]);
        assert_eq!(backend.unwrap().node, NODE_ELSEWHERE);
    }
}
