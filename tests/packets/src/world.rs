use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use aya::maps::lpm_trie::Key;
use aya::programs::{Program, TestRun, TestRunOptions};
use fairlead_dataplane::loader::{Programs, Tables};
use fairlead_dataplane::object;
use fairlead_dataplane_common::{
    Address, BACKEND_ACTIVE, BackendEntry, BackendStats, Config, Counter, DropReason,
    EndpointEntry, EndpointKey, FRONTEND_ADDRESS, FRONTEND_EXTERNAL, FRONTEND_USED, FrontendBucket,
    FrontendEntry, FrontendKey, NodeEntry, PodEntry, ROUTE_LOCAL, ROUTE_NODE_HOST, ROUTE_PODS,
    ROUTE_UNREACHABLE, RouteEntry, RouteKey, SERVICE_DR, ServiceEntry, ServiceStats, maps,
    protocol,
};

/// The node whose programs run.
pub const NODE_1: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 101);
/// Another node, its neighbour resolved.
pub const NODE_2: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 102);
/// Another node, its neighbour not resolved.
pub const NODE_3: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 103);
/// A pod of the node.
pub const POD_1: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
/// A pod of [`NODE_2`].
pub const POD_2: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 10);
/// A pod of [`NODE_3`].
pub const POD_3: Ipv4Addr = Ipv4Addr::new(10, 244, 3, 10);
/// The VIP of all services.
pub const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 100, 1);
/// Somebody outside.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 10);

/// The address of [`POD_1`]'s pod in IPv6.
pub const POD_1_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x10);
/// The address of [`POD_2`]'s pod in IPv6.
pub const POD_2_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 2, 0, 0, 0, 0x10);
/// The address of [`POD_3`]'s pod in IPv6.
const POD_3_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 3, 0, 0, 0, 0x10);
/// The node's address in IPv6, once it has been given it: see [`World::add_node_v6`].
pub const NODE_1_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x65);
/// The VIP of all services in IPv6.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1);
/// Somebody outside, in IPv6.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);

/// Where frames for [`NODE_2`] go.
pub const NODE_2_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x66];
/// The pod's own interface.
const POD_1_MAC: [u8; 6] = [0x02, 0, 0, 0, 1, 0x0a];
/// The loopback, which `BPF_PROG_TEST_RUN` pretends skbs came in by, plays the pod's veth.
const VETH: u32 = 1;
const MTU: u32 = crate::frame::NODE_MTU as u32;
pub(crate) const SEED: [u64; 2] = [0x5eed_5eed_5eed_5eed, 0x0bad_cafe_0bad_cafe];

/// What a program did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Given up to the stack: `XDP_PASS`, `TC_ACT_OK`.
    Pass,
    /// Sent out by where it came in: `XDP_TX`.
    Transmit,
    /// Given to another interface: `TC_ACT_REDIRECT`.
    Redirect,
    /// Taken in by the program itself: `XDP_DROP` that is no loss, of an answer to a probe.
    TakenIn,
    /// Dropped, for the one reason whose counter moved.
    Drop(DropReason),
}

/// The verdict, and the packet as the program left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// The packet.
    pub frame: Vec<u8>,
}

/// The programs over maps of their own, filled for a cluster of three nodes with a pod each.
///
/// Services at [`VIP`]: TCP 80 with backends on nodes 1, 2 and 3; TCP 81 on node 1 only (backend
/// id 101), TCP 82 on node 2 only (102), TCP 83 on node 3 only (103), TCP 84 without backends;
/// UDP 53 on node 2 and UDP 54 on node 1. The same at [`VIP_V6`], where the backends' ids are 10
/// higher.
pub struct World {
    programs: Programs,
    /// The maps.
    pub tables: Tables,
    pub(crate) lut_used: u32,
    pub(crate) services_used: u32,
}

/// Says so and returns true if the test cannot run for want of root; panics in CI, where a skipped
/// test would look like a passed one.
pub fn is_root_missing() -> bool {
    // The owner of /proc/self is this process's effective user.
    let is_root = std::fs::metadata("/proc/self")
        .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0);
    if !is_root {
        assert!(
            std::env::var_os("CI").is_none(),
            "tests of programs need root"
        );
        println!("SKIP: needs root");
    }
    !is_root
}

impl World {
    /// Loads the embedded programs, or nothing (after saying so) if the test has to be skipped.
    pub fn open() -> Option<Self> {
        if is_root_missing() {
            return None;
        }
        let object = object::embedded().expect("the object is built before the packet tests run");
        Some(Self::load(object, None))
    }

    /// Loads programs from `object`, over the maps pinned in `pins` if it is given.
    pub fn load(object: &[u8], pins: Option<&Path>) -> Self {
        let (programs, tables) = Programs::load(object, pins).expect("the programs load");
        Self::of(programs, tables)
    }

    /// Fills the maps of loaded programs.
    pub fn of(programs: Programs, tables: Tables) -> Self {
        let mut world = Self {
            programs,
            tables,
            lut_used: 0,
            services_used: 0,
        };
        world.fill();
        world
    }

    /// Runs a program on a packet.
    pub fn run(&mut self, program: &'static str, frame: &[u8]) -> Outcome {
        self.run_in(None, program, frame)
    }

    /// The same in a context that is not the kernel's usual one: the bytes of a `struct xdp_md` or
    /// `struct __sk_buff` of linux/bpf.h.
    pub(crate) fn run_in(
        &mut self,
        context: Option<&[u8]>,
        program: &'static str,
        frame: &[u8],
    ) -> Outcome {
        let before = self.drops();
        let noted = self.counter(Counter::ProbeNoted);
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: context,
            ..TestRunOptions::default()
        };
        let program = self
            .programs
            .get_mut(program)
            .expect("a program of the object");
        let (result, is_xdp) = match program {
            Program::Xdp(program) => (program.test_run(options), true),
            Program::SchedClassifier(program) => (program.test_run(options), false),
            other => panic!("{other:?} does not run on packets"),
        };
        let result = result.expect("the program runs");
        out.truncate(result.data_size_out as usize);
        let after = self.drops();
        let moved: Vec<DropReason> = DropReason::ALL
            .iter()
            .copied()
            .filter(|reason| after[*reason as usize] != before[*reason as usize])
            .collect();
        let verdict = match (result.return_value, is_xdp) {
            (1, true) if self.counter(Counter::ProbeNoted) > noted => Verdict::TakenIn,
            (1, true) | (2, false) => Verdict::Drop(*moved.first().expect("drops are counted")),
            (2, true) | (0, false) => Verdict::Pass,
            (3, true) => Verdict::Transmit,
            (7, false) => Verdict::Redirect,
            (code, _) => panic!("unexpected verdict {code}"),
        };
        assert_eq!(
            moved.len(),
            usize::from(matches!(verdict, Verdict::Drop(_))),
            "{moved:?}"
        );
        Outcome {
            verdict,
            frame: out,
        }
    }

    /// Runs a program for skbs on a packet, and asks for nothing but that it runs: for floods.
    pub fn run_blindly(&mut self, program: &'static str, frame: &[u8]) {
        let program = self.programs.get_mut(program);
        let Ok(Program::SchedClassifier(program)) = program else {
            panic!("no program for skbs is called so");
        };
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        program.test_run(options).expect("the program runs");
    }

    /// The programs, to be attached.
    pub fn programs_mut(&mut self) -> &mut Programs {
        &mut self.programs
    }

    /// Packets dropped, by number of the reason.
    pub fn drops(&self) -> Vec<u64> {
        (0..maps::DROP_REASONS_MAX)
            .map(|reason| {
                let counts = self
                    .tables
                    .drops
                    .get(&reason, 0)
                    .expect("a counter of each reason");
                counts.iter().map(|count| count.packets).sum()
            })
            .collect()
    }

    /// What the backend in `slot` was sent on all CPUs.
    pub fn backend_stats(&self, slot: u32) -> BackendStats {
        let counts = self
            .tables
            .backend_stats
            .get(&slot, 0)
            .expect("a counter of each backend");
        counts
            .iter()
            .fold(BackendStats::default(), BackendStats::plus)
    }

    /// What was refused of the service in `slot` on all CPUs.
    pub fn service_stats(&self, slot: u32) -> ServiceStats {
        let counts = self
            .tables
            .service_stats
            .get(&slot, 0)
            .expect("a counter of each service");
        counts
            .iter()
            .fold(ServiceStats::default(), ServiceStats::plus)
    }

    /// Adds a service at [`VIP`] whose table names `backends` in turn; returns its slot.
    pub fn add_service(&mut self, protocol: u8, port: u16, backends: &[u32]) -> u32 {
        self.add_service_at(VIP.into(), protocol, port, backends)
    }

    /// The same at another VIP.
    pub fn add_service_at(
        &mut self,
        vip: IpAddr,
        protocol: u8,
        port: u16,
        backends: &[u32],
    ) -> u32 {
        let slot = self.add_hidden(backends);
        let key = FrontendKey::new(0, vip.into(), protocol, port.to_be());
        self.add_frontend(key, slot, FRONTEND_EXTERNAL);
        slot
    }

    /// The same without a frontend: nobody meets it yet.
    pub fn add_hidden(&mut self, backends: &[u32]) -> u32 {
        const TABLE: u32 = 251;
        let slot = self.services_used;
        self.services_used += 1;
        let length = if backends.is_empty() { 0 } else { TABLE };
        let table: Vec<u32> = backends
            .iter()
            .copied()
            .cycle()
            .take(length as usize)
            .collect();
        self.tables
            .lut
            .write(self.lut_used, &table)
            .expect("write the table");
        let entry = ServiceEntry {
            lut_offset: self.lut_used,
            lut_length: length,
            id: slot + 1,
            ..ServiceEntry::default()
        };
        self.lut_used += length;
        self.tables
            .services
            .set(ServiceEntry::index(0, slot), entry)
            .expect("write the service");
        slot
    }

    /// Lets the service in `slot` pass frames on as they are, with a second table that names
    /// `local` in turn.
    pub fn allow_dr(&mut self, slot: u32, local: &[u32]) {
        const TABLE: u32 = 101;
        let index = ServiceEntry::index(0, slot);
        let mut entry: ServiceEntry = self.tables.services.get(index).expect("read the service");
        let old = self
            .tables
            .lut
            .read(entry.lut_offset, entry.lut_length as usize)
            .expect("read the table");
        entry.local_length = if local.is_empty() { 0 } else { TABLE };
        let own = local
            .iter()
            .copied()
            .cycle()
            .take(entry.local_length as usize);
        let both: Vec<u32> = old.into_iter().chain(own).collect();
        entry.lut_offset = self.lut_used;
        entry.flags |= SERVICE_DR;
        self.lut_used += both.len() as u32;
        self.tables
            .lut
            .write(entry.lut_offset, &both)
            .expect("write both tables");
        self.tables
            .services
            .set(index, entry)
            .expect("write the service");
    }

    /// Puts the node in `slot` on the uplink's segment, or behind a router.
    pub fn set_adjacent(&mut self, slot: u32, adjacent: bool) {
        let node: NodeEntry = self.tables.nodes.get(slot).expect("read the node");
        self.tables
            .nodes
            .set(slot, node.with_adjacent(adjacent))
            .expect("write the node");
    }

    /// Adds a frontend where there is room: tests have too few for anything to move.
    pub fn add_frontend(&mut self, key: FrontendKey, service: u32, flags: u32) {
        for bucket in key.buckets() {
            let index = FrontendKey::index(0, bucket);
            let mut content: FrontendBucket =
                self.tables.frontends.get(index).expect("read the bucket");
            if let Some(free) = content.entries.iter_mut().find(|entry| entry.flags == 0) {
                *free = FrontendEntry {
                    key,
                    service,
                    flags: flags | FRONTEND_USED,
                };
                self.tables
                    .frontends
                    .set(index, content)
                    .expect("write the bucket");
                return;
            }
        }
        panic!("both buckets of {key:?} are full");
    }

    fn fill(&mut self) {
        let config = Config {
            seed: SEED,
            node_address: NODE_1.into(),
            other_address: NODE_1.into(),
            masquerade_word: Address::from(NODE_1).v4_word(),
            notes_per_window: 0,
            pod_prefix: Ipv4Addr::new(10, 244, 1, 0).into(),
            pod_mask: Address::mask(96 + 24),
            node_id: 1,
            bank: 0,
            uplink_ifindex: VETH,
            vxlan_port_be: protocol::VXLAN_PORT.to_be(),
            service_share_percent: 0,
            has_vip_prefixes: 0,
        };
        self.tables.config.set(0, config, 0).expect("write config");
        for (slot, address, mac) in [(1, NODE_2, Some(NODE_2_MAC)), (2, NODE_3, None)] {
            let node = NodeEntry::new(slot + 1, address.into(), NODE_1.into(), VETH, MTU, mac);
            self.tables.nodes.set(slot, node).expect("write the node");
            let address = Address::from(address);
            self.tables
                .node_addresses
                .insert(address, slot, 0)
                .expect("write its address");
            self.add_route(
                address,
                32,
                RouteEntry {
                    kind: ROUTE_NODE_HOST,
                    node: slot,
                },
            );
            let pods = Ipv4Addr::new(10, 244, slot as u8 + 1, 0);
            self.add_route(
                pods.into(),
                24,
                RouteEntry {
                    kind: ROUTE_PODS,
                    node: slot,
                },
            );
        }
        for (slot, pods) in [(1, POD_2_V6), (2, POD_3_V6)] {
            let pods = Address::from(pods).masked(&Address::mask(64));
            let kind = ROUTE_PODS;
            self.add_route(pods, 64, RouteEntry { kind, node: slot });
        }
        let own = RouteEntry {
            kind: ROUTE_LOCAL,
            node: 0,
        };
        self.add_route(Ipv4Addr::new(10, 244, 1, 0).into(), 24, own);
        let unreachable = RouteEntry {
            kind: ROUTE_UNREACHABLE,
            node: 0,
        };
        self.add_route(Ipv4Addr::new(10, 244, 0, 0).into(), 16, unreachable);

        let own_v6 = Address::from(POD_1_V6).masked(&Address::mask(64));
        self.add_route(own_v6, 64, own);

        let entry = EndpointEntry {
            ifindex: VETH,
            mac: POD_1_MAC,
            flags: 0,
        };
        let addresses = [POD_1.into(), POD_1_V6.into()];
        for address in addresses {
            self.tables
                .endpoints
                .insert(EndpointKey { address, vpc: 0 }, entry, 0)
                .expect("write the endpoint");
        }
        let pod = PodEntry {
            addresses,
            vpc: 0,
            flags: 0,
        };
        self.tables
            .pods
            .insert(VETH, pod, 0)
            .expect("write the pod");

        let places: [(u32, Address, u32); 6] = [
            (1, POD_1.into(), 0),
            (2, POD_2.into(), 1),
            (3, POD_3.into(), 2),
            (11, POD_1_V6.into(), 0),
            (12, POD_2_V6.into(), 1),
            (13, POD_3_V6.into(), 2),
        ];
        for (slot, address, node) in places {
            let backend = BackendEntry {
                address,
                id: 100 + slot,
                node,
                vpc: 0,
                port_be: 8080_u16.to_be(),
                state: BACKEND_ACTIVE,
                flags: 0,
            };
            self.tables
                .backends
                .set(slot, backend)
                .expect("write the backend");
            self.tables
                .backend_ids
                .insert(100 + slot, slot, 0)
                .expect("write its id");
        }
        for vip in [VIP.into(), VIP_V6.into()] {
            self.add_frontend(FrontendKey::of_address(0, vip), 0, FRONTEND_ADDRESS);
        }
        for (port, backends) in [
            (80, &[1, 2, 3][..]),
            (81, &[1]),
            (82, &[2]),
            (83, &[3]),
            (84, &[]),
        ] {
            self.add_service(protocol::TCP, port, backends);
            let backends: Vec<u32> = backends.iter().map(|slot| slot + 10).collect();
            self.add_service_at(VIP_V6.into(), protocol::TCP, port, &backends);
        }
        self.add_service(protocol::UDP, 53, &[2]);
        self.add_service(protocol::UDP, 54, &[1]);
        self.add_service_at(VIP_V6.into(), protocol::UDP, 53, &[12]);
        self.add_service_at(VIP_V6.into(), protocol::UDP, 54, &[11]);
    }

    fn add_route(&mut self, address: Address, length: u8, entry: RouteEntry) {
        let key = Key::new(
            RouteKey::prefix_bits(length, address.is_v4()),
            RouteKey { vpc_be: 0, address },
        );
        self.tables
            .routes
            .insert(&key, entry, 0)
            .expect("write the route");
    }
}
