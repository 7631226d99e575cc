//! Sockets of this node that ask for services: real ones, in a network namespace of the test's own.
//! Each test runs in a process of its own (nextest).

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::lpm_trie::Key;
use fairlead_dataplane::loader::Loaded;
use fairlead_dataplane_common::{
    AffinityEntry, BACKEND_ACTIVE, BACKEND_DRAINING, BackendEntry, DropReason, FRONTEND_CLUSTER,
    FRONTEND_EXTERNAL, FRONTEND_USED, FrontendBucket, FrontendEntry, FrontendKey, LoadEntry,
    NODE_LOCAL, RouteKey, SCHEDULER_LEAST_CONNECTIONS, SCHEDULER_NEVER_QUEUE,
    SCHEDULER_SHORTEST_EXPECTED_DELAY, SCHEDULER_WEIGHTED_LEAST_CONNECTIONS, SERVICE_AFFINITY,
    SERVICE_DESTINATION_HASH, SERVICE_IN_TURN, SERVICE_INTERNAL_LOCAL, SERVICE_LEAST_LOAD,
    SERVICE_SCHEDULER_SHIFT, SERVICE_SOURCE_HASH, ServiceEntry, VipPrefix, protocol,
};
use nix::sched::{CloneFlags, unshare};
use packet_tests::node::Node;

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const CLUSTER_IP6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10);
const PORT: u16 = 80;

/// How sockets name the service. The last is how one of IPv6 names an address of IPv4.
const NAMES: [IpAddr; 3] = [
    IpAddr::V4(CLUSTER_IP),
    IpAddr::V6(CLUSTER_IP6),
    IpAddr::V6(CLUSTER_IP.to_ipv6_mapped()),
];
/// Servers of each family.
const SERVERS: u32 = 3;
/// How much higher the slots of IPv6 are.
const V6: u32 = 10;
/// The node slot of a server that is to be taken for another node's.
const ELSEWHERE: u32 = 5;

/// Servers on this machine, and a service of each family that is made of them.
struct Sockets {
    loaded: Loaded,
    tcp: Vec<(u32, TcpListener)>,
    udp: Vec<(u32, UdpSocket)>,
    lut_used: u32,
    _node: Node,
}

/// What the services are to be like. Servers are named by their numbers, from 1 on.
#[derive(Clone, Copy, Default)]
struct Service<'a> {
    table: &'a [u32],
    local: &'a [u32],
    flags: u32,
    affinity_seconds: u32,
}

impl Sockets {
    /// Nothing, after printing why, without root.
    fn new() -> Option<Self> {
        let node = Node::new()?;
        let loaded = Loaded::open(&node.place).expect("load and attach");
        let mut sockets = Self {
            loaded,
            tcp: Vec::new(),
            udp: Vec::new(),
            lut_used: 1,
            _node: node,
        };
        for (first, any) in [(0, "127.0.0.1:0"), (V6, "[::1]:0")] {
            for number in 1..=SERVERS {
                let slot = first + number;
                let listener = TcpListener::bind(any).expect("listen");
                // A server has one port, of both protocols.
                let address = listener.local_addr().expect("its own address");
                let socket = UdpSocket::bind(address).expect("bind the same port");
                listener.set_nonblocking(true).expect("look, not wait");
                socket.set_nonblocking(true).expect("look, not wait");
                sockets.set_backend(slot, address, BACKEND_ACTIVE, NODE_LOCAL);
                sockets.tcp.push((slot, listener));
                sockets.udp.push((slot, socket));
            }
        }
        for (slot, name) in [(1, NAMES[0]), (2, NAMES[1])] {
            for protocol in [protocol::TCP, protocol::UDP] {
                sockets.add_frontend(slot, protocol, name);
            }
        }
        Some(sockets)
    }

    fn set_backend(&mut self, slot: u32, address: SocketAddr, state: u8, node: u32) {
        let entry = BackendEntry {
            address: address.ip().into(),
            id: slot,
            node,
            vpc: 0,
            port_be: address.port().to_be(),
            state,
            flags: 0,
        };
        let written = self.loaded.tables.backends.set(slot, entry);
        written.expect("write the backend");
    }

    /// Gives the server of this number, in both families, another state and node.
    fn change_server(&mut self, number: u32, state: u8, node: u32) {
        for slot in [number, number + V6] {
            let held: BackendEntry = self.loaded.tables.backends.get(slot).expect("it is there");
            let address =
                SocketAddr::from((IpAddr::from(held.address), u16::from_be(held.port_be)));
            self.set_backend(slot, address, state, node);
        }
    }

    fn add_frontend(&mut self, service: u32, protocol: u8, cluster_ip: IpAddr) {
        let key = FrontendKey::new(0, cluster_ip.into(), protocol, PORT.to_be());
        self.add_key(key, service, FRONTEND_CLUSTER);
    }

    /// A VIP that is a prefix, of so many bits of 128: TCP only.
    fn add_prefix(&mut self, service: u32, network: IpAddr, bits: u32) {
        let network = network.into();
        let prefix = VipPrefix {
            network,
            length: bits,
        };
        let place = RouteKey {
            vpc_be: 0,
            address: network,
        };
        let tables = &mut self.loaded.tables;
        let place = Key::new(prefix.bits(), place);
        let written = tables.vip_prefixes.insert(&place, prefix, 0);
        written.expect("write the prefix");
        let mut config = tables.config.get(&0, 0).expect("read config");
        config.has_vip_prefixes = 1;
        tables.config.set(0, config, 0).expect("write config");
        let key = FrontendKey::new(0, network, protocol::TCP, PORT.to_be());
        self.add_key(key.at_prefix(&prefix), service, FRONTEND_EXTERNAL);
    }

    fn add_key(&mut self, key: FrontendKey, service: u32, flags: u32) {
        let index = FrontendKey::index(0, key.buckets()[0]);
        let frontends = &mut self.loaded.tables.frontends;
        let mut bucket: FrontendBucket = frontends.get(index).expect("read the bucket");
        let free = bucket.entries.iter_mut().find(|entry| entry.flags == 0);
        *free.expect("there are few frontends") = FrontendEntry {
            key,
            service,
            flags: FRONTEND_USED | flags,
        };
        frontends.set(index, bucket).expect("write the bucket");
    }

    /// Makes both services like this.
    fn serve(&mut self, service: &Service<'_>) {
        for (slot, first) in [(1, 0), (2, V6)] {
            let numbers = service.table.iter().chain(service.local);
            let elements: Vec<u32> = numbers.map(|number| first + number).collect();
            let entry = ServiceEntry {
                lut_offset: self.lut_used,
                lut_length: service.table.len() as u32,
                local_length: service.local.len() as u32,
                id: slot,
                flags: service.flags,
                affinity_seconds: service.affinity_seconds,
                ..ServiceEntry::default()
            };
            let tables = &mut self.loaded.tables;
            let written = tables.lut.write(self.lut_used, &elements);
            written.expect("write the tables");
            self.lut_used += elements.len() as u32;
            let index = ServiceEntry::index(0, slot);
            tables
                .services
                .set(index, entry)
                .expect("write the service");
            tables
                .turns
                .set(slot, 0, 0)
                .expect("begin with the first turn");
        }
    }

    /// Connects to the service by `name`; the number of the server that accepts.
    fn connect(&self, name: IpAddr) -> io::Result<u32> {
        let client = TcpStream::connect((name, PORT))?;
        assert_eq!(client.peer_addr()?, SocketAddr::from((name, PORT)));
        // Accepted by one, and the next look must not find it with another.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            for (slot, listener) in &self.tcp {
                if listener.accept().is_ok() {
                    return Ok(slot % V6);
                }
            }
            assert!(Instant::now() < deadline, "no server accepts");
        }
    }

    /// The numbers of the servers that accept so many connections in a row.
    fn connect_often(&self, name: IpAddr, count: usize) -> Vec<u32> {
        let connected = (0..count).map(|_| self.connect(name));
        connected
            .collect::<io::Result<_>>()
            .expect("each is accepted")
    }

    /// The number of the server that a datagram has come to.
    fn received(&self) -> u32 {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            for (slot, socket) in &self.udp {
                if socket.recv_from(&mut [0; 16]).is_ok() {
                    return slot % V6;
                }
            }
            assert!(Instant::now() < deadline, "no server receives");
        }
    }

    fn drops(&self, reason: DropReason) -> u64 {
        let counts = self.loaded.tables.drops.get(&(reason as u32), 0);
        let counts = counts.expect("a counter of each reason");
        counts.iter().map(|count| count.packets).sum()
    }
}

fn refused(connected: io::Result<u32>) -> bool {
    connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// The servers in turn, often enough for a table.
fn hashed(servers: &[u32]) -> Vec<u32> {
    servers.iter().copied().cycle().take(101).collect()
}

#[test]
fn tcp_socket_speaks_with_the_server_it_was_given() {
    let Some(mut sockets) = Sockets::new() else {
        return;
    };
    sockets.serve(&Service {
        table: &[2],
        ..Service::default()
    });
    for name in NAMES {
        let mut client = TcpStream::connect((name, PORT)).expect("connect to the service");
        let (_, listener) = &sockets.tcp[if name == NAMES[1] { 4 } else { 1 }];
        listener.set_nonblocking(false).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"hello").unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "hello", "{name}");
    }
}

#[test]
fn sockets_reach_every_address_of_a_prefix_and_see_it_as_their_peer() {
    let Some(mut sockets) = Sockets::new() else {
        return;
    };
    sockets.serve(&Service {
        table: &[2],
        ..Service::default()
    });
    let cases = [
        (
            1,
            "203.0.113.16",
            96 + 28,
            ["203.0.113.16", "203.0.113.31"],
            "203.0.113.32",
        ),
        (
            2,
            "2001:db8:113::",
            64,
            ["2001:db8:113::", "2001:db8:113::ffff"],
            "2001:db8:112::1",
        ),
    ];
    for (service, network, bits, inside, outside) in cases {
        sockets.add_prefix(service, network.parse().unwrap(), bits);
        for name in inside {
            let connected = sockets.connect(name.parse().unwrap());
            assert_eq!(connected.expect("connect to the prefix"), 2, "{name}");
        }
        let connected = sockets.connect(outside.parse().unwrap());
        assert!(
            !refused(connected),
            "{outside} is nobody's, and has no route"
        );
    }
    let mapped = Ipv4Addr::new(203, 0, 113, 20).to_ipv6_mapped();
    assert_eq!(sockets.connect(mapped.into()).unwrap(), 2);
}

#[test]
fn udp_socket_is_answered_by_the_service_it_sent_to() {
    let Some(mut sockets) = Sockets::new() else {
        return;
    };
    sockets.serve(&Service {
        table: &[3],
        ..Service::default()
    });
    for name in NAMES {
        let service = SocketAddr::from((name, PORT));
        let any = if name.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let client = UdpSocket::bind(any).unwrap();
        let wait = Some(Duration::from_secs(10));
        client.set_read_timeout(wait).unwrap();
        client
            .send_to(b"query", service)
            .expect("send to the service");
        let (_, server) = &sockets.udp[if name == NAMES[1] { 5 } else { 2 }];
        server.set_nonblocking(false).unwrap();
        let mut buffer = [0; 16];
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(b"answer", from).unwrap();
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"answer");
        assert_eq!(from, service);
    }
}

#[test]
fn connected_udp_socket_sees_the_service_as_its_peer() {
    let Some(mut sockets) = Sockets::new() else {
        return;
    };
    sockets.serve(&Service {
        table: &[1],
        ..Service::default()
    });
    let client = UdpSocket::bind("[::]:0").unwrap();
    let service = SocketAddr::from((CLUSTER_IP6, PORT));
    client.connect(service).expect("connect to the service");
    assert_eq!(client.peer_addr().unwrap(), service);
    client.send(b"query").unwrap();
    assert_eq!(sockets.received(), 1);
}

#[test]
fn socket_is_refused_by_a_service_without_backends() {
    let Some(mut sockets) = Sockets::new() else {
        return;
    };
    sockets.serve(&Service::default());
    for name in NAMES {
        assert!(refused(sockets.connect(name)), "{name}");
    }
    assert_eq!(sockets.drops(DropReason::NoBackend), 3);
}

#[test]
fn socket_is_refused_by_a_backend_of_the_other_family() {
    let Some(mut sockets) = Sockets::new() else {
        return;
    };
    sockets.serve(&Service {
        table: &[1],
        ..Service::default()
    });
    let other: IpAddr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x20).into();
    sockets.add_frontend(1, protocol::TCP, other);
    assert!(refused(sockets.connect(other)));
    assert_eq!(sockets.drops(DropReason::UnsupportedFamily), 1);
}

#[test]
fn sockets_that_connect_take_turns_and_datagrams_take_none() {
    let Some(mut sockets) = Sockets::new() else {
        return;
    };
    // `rr`, and `wrr` of weights 2, 1 and 1.
    for table in [&[1, 2, 3][..], &[1, 2, 1, 3]] {
        let service = Service {
            table,
            flags: SERVICE_IN_TURN,
            ..Service::default()
        };
        for name in NAMES {
            sockets.serve(&service);
            let rounds = table.repeat(3);
            assert_eq!(sockets.connect_often(name, rounds.len()), rounds, "{name}");
        }
    }
    for name in NAMES {
        let any = if name.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let client = UdpSocket::bind(any).unwrap();
        let servers: BTreeSet<u32> = (0..8)
            .map(|_| {
                client.send_to(b"query", (name, PORT)).expect("send");
                sockets.received()
            })
            .collect();
        assert_eq!(servers.len(), 1, "{name}: one socket has one server");
    }
}

#[test]
fn sockets_get_the_server_with_the_least_load() {
    let Some(mut sockets) = Sockets::new() else {
        return;
    };
    // Connections, weight of servers 1, 2 and 3; who gets the next.
    let cases = [
        (SCHEDULER_LEAST_CONNECTIONS, [(3, 9), (2, 1), (4, 9)], 2),
        (
            SCHEDULER_WEIGHTED_LEAST_CONNECTIONS,
            [(3, 1), (2, 1), (7, 4)],
            3,
        ),
        (
            SCHEDULER_SHORTEST_EXPECTED_DELAY,
            [(0, 1), (1, 3), (2, 3)],
            2,
        ),
        (SCHEDULER_NEVER_QUEUE, [(0, 1), (1, 3), (2, 3)], 1),
    ];
    for (scheduler, loads, server) in cases {
        sockets.serve(&Service {
            table: &[1, 2, 3],
            flags: SERVICE_LEAST_LOAD | scheduler << SERVICE_SCHEDULER_SHIFT,
            ..Service::default()
        });
        for (number, (connections, weight)) in (1..).zip(loads) {
            let load = LoadEntry {
                connections,
                weight,
                ..LoadEntry::default()
            };
            for slot in [number, number + V6] {
                sockets.loaded.tables.loads.set(slot, load).unwrap();
            }
        }
        for name in NAMES {
            let got = sockets.connect_often(name, 3);
            assert_eq!(got, [server; 3], "{name}, scheduler {scheduler}");
        }
    }
}

#[test]
fn sockets_of_one_client_agree_where_its_address_or_the_services_decides() {
    let Some(mut sockets) = Sockets::new() else {
        return;
    };
    let table = hashed(&[1, 2, 3]);
    for (flags, spreads) in [
        (0, true),
        (SERVICE_SOURCE_HASH, false),
        (SERVICE_DESTINATION_HASH, false),
    ] {
        sockets.serve(&Service {
            table: &table,
            flags,
            ..Service::default()
        });
        for name in NAMES {
            let servers: BTreeSet<u32> = sockets.connect_often(name, 24).into_iter().collect();
            assert_eq!(servers.len() > 1, spreads, "{name}, flags {flags}");
        }
    }
}

#[test]
fn client_with_affinity_keeps_its_server_while_that_is_fresh_and_takes_connections() {
    let Some(mut sockets) = Sockets::new() else {
        return;
    };
    let table = hashed(&[1, 2, 3]);
    let flags = SERVICE_AFFINITY | SERVICE_SOURCE_HASH;
    for name in NAMES {
        let mut service = Service {
            table: &table,
            flags,
            affinity_seconds: 3600,
            ..Service::default()
        };
        sockets.serve(&service);
        let first = sockets.connect(name).unwrap();
        assert_eq!(sockets.connect_often(name, 8), [first; 8], "{name}");
        let other = first % SERVERS + 1;
        service.table = std::slice::from_ref(&other);
        sockets.serve(&service);
        assert_eq!(sockets.connect(name).unwrap(), first, "{name}: still noted");
        sockets.change_server(first, BACKEND_DRAINING, NODE_LOCAL);
        let got = sockets.connect(name).unwrap();
        assert_eq!(got, other, "{name}: the noted one drains");
        sockets.change_server(first, BACKEND_ACTIVE, NODE_LOCAL);
        assert_eq!(sockets.connect(name).unwrap(), other, "{name}: noted anew");
        service.table = std::slice::from_ref(&first);
        service.affinity_seconds = 0;
        sockets.serve(&service);
        let got = sockets.connect(name).unwrap();
        assert_eq!(got, first, "{name}: too long ago");
    }
}

#[test]
fn affinity_is_of_a_network_namespace() {
    let Some(mut sockets) = Sockets::new() else {
        return;
    };
    sockets.serve(&Service {
        table: &hashed(&[1, 2, 3]),
        flags: SERVICE_AFFINITY | SERVICE_SOURCE_HASH,
        affinity_seconds: 3600,
        ..Service::default()
    });
    let clients = |sockets: &Sockets| -> Vec<AffinityEntry> {
        let entries = sockets.loaded.tables.affinity.iter();
        entries.map(|entry| entry.unwrap().1).collect()
    };
    sockets.connect(NAMES[0]).unwrap();
    sockets.connect(NAMES[2]).unwrap();
    assert_eq!(clients(&sockets).len(), 1, "one service, one client");
    let elsewhere = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("another network namespace");
        // The server is out of its reach, but the pick is made.
        TcpStream::connect((NAMES[0], PORT)).unwrap_err();
    });
    elsewhere.join().unwrap();
    assert_eq!(clients(&sockets).len(), 2);
}

#[test]
fn sockets_stay_on_this_node_where_the_policy_says_so() {
    let Some(mut sockets) = Sockets::new() else {
        return;
    };
    for number in [1, 2] {
        sockets.change_server(number, BACKEND_ACTIVE, ELSEWHERE);
    }
    let all = hashed(&[1, 2, 3]);
    let kinds = [
        (&all[..], &[3; 7][..], 0),
        (&[1, 2, 3], &[3], SERVICE_IN_TURN),
        (&[1, 2, 3], &[3], SERVICE_LEAST_LOAD),
        (&all, &[3; 7], SERVICE_SOURCE_HASH),
        (&all, &[3; 7], SERVICE_DESTINATION_HASH),
        (&all, &[3; 7], SERVICE_SOURCE_HASH | SERVICE_AFFINITY),
    ];
    let load = LoadEntry {
        connections: 9,
        weight: 1,
        ..LoadEntry::default()
    };
    for slot in [3, 3 + V6] {
        sockets.loaded.tables.loads.set(slot, load).unwrap();
    }
    for (round, (table, local, flags)) in (1..).zip(kinds) {
        let flags = flags | SERVICE_INTERNAL_LOCAL;
        let service = Service {
            table,
            local,
            flags,
            affinity_seconds: 3600,
        };
        sockets.serve(&service);
        for name in NAMES {
            let got = sockets.connect_often(name, 6);
            assert_eq!(got, [3; 6], "{name}, flags {flags:#x}");
        }
        // Rather none than one of another node.
        sockets.serve(&Service {
            local: &[],
            ..service
        });
        for name in NAMES {
            assert!(refused(sockets.connect(name)), "{name}, flags {flags:#x}");
        }
        assert_eq!(sockets.drops(DropReason::NoLocalBackend), 3 * round);
    }
}

#[test]
fn client_with_affinity_to_another_nodes_server_gets_one_of_this_node_by_the_policy() {
    let Some(mut sockets) = Sockets::new() else {
        return;
    };
    let flags = SERVICE_AFFINITY | SERVICE_SOURCE_HASH;
    let mut service = Service {
        table: &[1],
        local: &[3],
        flags,
        affinity_seconds: 3600,
    };
    sockets.serve(&service);
    for name in NAMES {
        assert_eq!(sockets.connect(name).unwrap(), 1);
    }
    sockets.change_server(1, BACKEND_ACTIVE, ELSEWHERE);
    service.flags |= SERVICE_INTERNAL_LOCAL;
    sockets.serve(&service);
    for name in NAMES {
        assert_eq!(sockets.connect(name).unwrap(), 3, "{name}");
    }
}
