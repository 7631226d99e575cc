//! The services that random packets meet: one for each thing that a service may ask for, in both
//! families; and what the checks know of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_dataplane_common::{
    Config, FORMERS_PER_SLOT, LUT_MOVING, LUT_SETTLING, LoadEntry, SCHEDULER_NEVER_QUEUE,
    SCHEDULER_SHORTEST_EXPECTED_DELAY, SCHEDULER_WEIGHTED_LEAST_CONNECTIONS, SERVICE_AFFINITY,
    SERVICE_DESTINATION_HASH, SERVICE_DR, SERVICE_EXTERNAL_LOCAL, SERVICE_GUE, SERVICE_IN_TURN,
    SERVICE_LEAST_LOAD, SERVICE_NAT, SERVICE_SCHEDULER_SHIFT, SERVICE_SOURCE_HASH,
    SERVICE_SOURCE_RANGES, SERVICE_TRACK, ServiceEntry,
};
use packet_tests::{
    NODE_1, NODE_2, NODE_2_MAC, NODE_3, POD_1, POD_1_V6, POD_2, POD_2_V6, POD_3, VIP, VIP_V6, World,
};

use crate::packet::{TCP, UDP};

/// Who has a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// This node.
    Here,
    /// Another node: its address, and where frames for it go.
    Node { address: IpAddr, mac: [u8; 6] },
    /// A machine outside the cluster: where frames for it go, and whether that is itself.
    Server { mac: [u8; 6], is_adjacent: bool },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    pub(crate) id: u32,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) holder: Holder,
}

/// Address, protocol and port.
pub(crate) type Frontend = (IpAddr, u8, u16);

/// All services, as whoever configured them knows them.
pub(crate) struct Services {
    pub(crate) backends: HashMap<Frontend, Vec<Backend>>,
    pub(crate) by_id: HashMap<u32, Backend>,
}

/// The first port of the services added here; each kind has the next.
const FIRST_PORT: u16 = 1000;

/// What a service of pods asks for.
const KINDS: [u32; 17] = [
    0,
    SERVICE_DR,
    SERVICE_TRACK,
    SERVICE_TRACK | SERVICE_DR,
    SERVICE_NAT | SERVICE_TRACK,
    SERVICE_SOURCE_HASH,
    SERVICE_DESTINATION_HASH,
    SERVICE_AFFINITY | SERVICE_TRACK,
    SERVICE_SOURCE_RANGES,
    SERVICE_EXTERNAL_LOCAL,
    SERVICE_IN_TURN | SERVICE_TRACK,
    SERVICE_LEAST_LOAD | SERVICE_TRACK,
    scheduler(SCHEDULER_WEIGHTED_LEAST_CONNECTIONS),
    scheduler(SCHEDULER_SHORTEST_EXPECTED_DELAY),
    scheduler(SCHEDULER_NEVER_QUEUE),
    SERVICE_GUE,
    SERVICE_DR | SERVICE_NAT | SERVICE_TRACK,
];

/// What a service of real servers asks for.
const SERVER_KINDS: [u32; 8] = [
    0,
    SERVICE_DR,
    SERVICE_GUE,
    SERVICE_DR | SERVICE_GUE,
    SERVICE_TRACK,
    SERVICE_DR | SERVICE_TRACK | SERVICE_GUE,
    SERVICE_NAT | SERVICE_TRACK,
    SERVICE_NAT | SERVICE_IN_TURN | SERVICE_TRACK,
];

/// Real servers, by backend slot: on the uplink's segment, behind a router, and not found yet; of each
/// family.
const SERVERS: [(u32, IpAddr, Option<[u8; 6]>, bool); 6] = [
    (20, v4(20), Some([2, 0, 0, 0, 2, 20]), true),
    (21, v4(21), Some([2, 0, 0, 0, 2, 99]), false),
    (22, v4(22), None, true),
    (30, v6(0x20), Some([2, 0, 0, 0, 2, 30]), true),
    (31, v6(0x21), Some([2, 0, 0, 0, 2, 99]), false),
    (32, v6(0x22), None, false),
];
/// The port of every server, for nat.
pub(crate) const SERVER_PORT: u16 = 8080;

const fn v4(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, host))
}

const fn v6(host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 2, host))
}

/// The node's address of the other family.
pub(crate) const NODE_1_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x101);

const fn scheduler(kind: u32) -> u32 {
    SERVICE_LEAST_LOAD | SERVICE_TRACK | kind << SERVICE_SCHEDULER_SHIFT
}

/// Behind the tables of the world's own services.
const LUT: u32 = 1_000_000;

impl Services {
    /// Those of the world, and one of each kind: with slots that stay, move, or settle.
    pub(crate) fn fill(world: &mut World) -> Self {
        let mut services = Self::of_world();
        world.set_adjacent(1, true);
        let config = world.tables.config.get(&0, 0).expect("read config");
        let config = Config {
            other_address: NODE_1_V6.into(),
            ..config
        };
        world.tables.config.set(0, config, 0).expect("write config");
        world.limit_notes(0, 75);
        for server in SERVERS {
            services.add_server(world, server);
        }
        let pods: &[u32] = &KINDS;
        let servers: &[u32] = &SERVER_KINDS;
        let mut port = FIRST_PORT;
        let mut lut = LUT;
        for (vip, backends, kinds) in [
            (IpAddr::from(VIP), [1, 2, 3], pods),
            (VIP_V6.into(), [11, 12, 13], pods),
            (VIP.into(), [20, 21, 22], servers),
            (VIP_V6.into(), [30, 31, 32], servers),
            // Of the other family, or mixed: for tunnels.
            (VIP.into(), [31, 30, 21], servers),
            (VIP_V6.into(), [21, 22, 31], servers),
        ] {
            for protocol in [TCP, UDP] {
                for flags in kinds {
                    for state in [0, LUT_MOVING, LUT_SETTLING] {
                        let frontend = (vip, protocol, port);
                        services.add(world, frontend, &backends, *flags, state, &mut lut);
                        port += 1;
                    }
                }
            }
        }
        services
    }

    fn add_server(
        &mut self,
        world: &mut World,
        (slot, address, mac, is_adjacent): (u32, IpAddr, Option<[u8; 6]>, bool),
    ) {
        world.add_server(slot, (address, SERVER_PORT).into(), mac);
        world.set_adjacent(slot, is_adjacent);
        let id = 100 + slot;
        let written = world.tables.backend_ids.insert(id, slot, 0);
        written.expect("write its id");
        let holder = Holder::Server {
            mac: mac.unwrap_or_default(),
            is_adjacent,
        };
        let backend = Backend {
            id,
            address,
            port: SERVER_PORT,
            holder,
        };
        self.by_id.insert(id, backend);
    }

    fn of_world() -> Self {
        let node = |address: Ipv4Addr, mac| Holder::Node {
            address: address.into(),
            mac,
        };
        let node_2 = node(NODE_2, NODE_2_MAC);
        let node_3 = node(NODE_3, [0; 6]);
        let pod_3_v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, 3, 0, 0, 0, 0x10);
        let places: [(u32, IpAddr, Holder); 6] = [
            (1, POD_1.into(), Holder::Here),
            (2, POD_2.into(), node_2),
            (3, POD_3.into(), node_3),
            (11, POD_1_V6.into(), Holder::Here),
            (12, POD_2_V6.into(), node_2),
            (13, pod_3_v6.into(), node_3),
        ];
        let by_id = places.map(|(slot, address, holder)| {
            let id = 100 + slot;
            let backend = Backend {
                id,
                address,
                port: 8080,
                holder,
            };
            (id, backend)
        });
        let mut services = Self {
            backends: HashMap::new(),
            by_id: by_id.into(),
        };
        for (vip, first) in [(IpAddr::from(VIP), 0), (VIP_V6.into(), 10)] {
            for (protocol, port, slots) in [
                (TCP, 80, &[1, 2, 3][..]),
                (TCP, 81, &[1]),
                (TCP, 82, &[2]),
                (TCP, 83, &[3]),
                (UDP, 53, &[2]),
                (UDP, 54, &[1]),
            ] {
                let backends = slots
                    .iter()
                    .map(|slot| services.by_id[&(100 + first + slot)]);
                let backends = backends.collect();
                services.backends.insert((vip, protocol, port), backends);
            }
        }
        services
    }

    fn add(
        &mut self,
        world: &mut World,
        (vip, protocol, port): Frontend,
        backends: &[u32],
        flags: u32,
        state: u32,
        lut: &mut u32,
    ) {
        const TABLE: u32 = 31;
        let slot = world.add_service_at(vip, protocol, port, backends);
        let list = |slots: &[u32], state| -> Vec<u32> {
            let states = [0, state];
            let slots = slots.iter().cycle().take(TABLE as usize).enumerate();
            slots
                .map(|(index, slot)| slot | states[index % 2])
                .collect()
        };
        // The table, this node's own of it, what it was before, and who had its slots in between.
        let turned: Vec<u32> = backends.iter().rev().copied().collect();
        let local = if [1, 11].contains(&backends[0]) {
            list(&backends[..1], 0)
        } else {
            Vec::new()
        };
        let (base, formers) = if state == 0 {
            (Vec::new(), Vec::new())
        } else {
            let formers = [list(&turned, 0), list(backends, 0)].concat();
            (list(&turned, 0), formers)
        };
        let entry = ServiceEntry {
            lut_offset: *lut,
            lut_length: TABLE,
            local_length: local.len() as u32,
            id: slot + 1,
            flags,
            base_length: base.len() as u32,
            former_length: formers.len() as u32 / FORMERS_PER_SLOT,
            affinity_seconds: 1,
        };
        let tables = [list(backends, state), local, base, formers].concat();
        world
            .tables
            .lut
            .write(*lut, &tables)
            .expect("write the tables");
        *lut += tables.len() as u32;
        let index = ServiceEntry::index(0, slot);
        world
            .tables
            .services
            .set(index, entry)
            .expect("write the service");
        for backend in backends {
            let load = LoadEntry {
                weight: *backend,
                ..LoadEntry::default()
            };
            world
                .tables
                .loads
                .set(*backend, load)
                .expect("write a load");
        }
        let known = backends.iter().map(|slot| self.by_id[&(100 + slot)]);
        self.backends.insert((vip, protocol, port), known.collect());
    }

    /// The backends that a packet may be for: of one service if its port is known, else of all that
    /// have this address.
    pub(crate) fn of(&self, vip: IpAddr, protocol: u8, port: Option<u16>) -> Vec<Backend> {
        match port {
            Some(port) => self
                .backends
                .get(&(vip, protocol, port))
                .cloned()
                .unwrap_or_default(),
            None => self
                .by_id
                .values()
                .filter(|_| self.is_vip(vip))
                .copied()
                .collect(),
        }
    }

    /// Whether it is one of the node's own addresses.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        address == IpAddr::from(NODE_1) || address == IpAddr::from(NODE_1_V6)
    }

    pub(crate) fn is_vip(&self, address: IpAddr) -> bool {
        address == IpAddr::from(VIP) || address == IpAddr::from(VIP_V6)
    }
}
