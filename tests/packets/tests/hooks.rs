//! The programs at their hooks: attached, replaced, adopted, and translating real sockets. Each test
//! runs in a process of its own (nextest), in a network namespace that vanishes with it.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fairlead_dataplane::loader::{Loaded, Place};
use fairlead_dataplane_common::{
    BACKEND_ACTIVE, BackendEntry, Config, FRONTEND_CLUSTER, FRONTEND_USED, FrontendBucket,
    FrontendEntry, FrontendKey, Meta, ServiceEntry, protocol,
};
use nix::sched::{CloneFlags, unshare};
use packet_tests::is_root_missing;

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const CLUSTER_IP6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10);
const PORT: u16 = 80;

/// A node's place in the kernel, removed when dropped. The process is in its cgroup and namespace.
struct Node {
    place: Place,
}

impl Node {
    fn new() -> Option<Self> {
        if is_root_missing() {
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of our own");
        ip("link set lo up");
        ip("link add uplink type veth peer name other");
        ip("link set uplink up");
        ip("link set other up");
        let name = format!("fairlead-test-{}", std::process::id());
        let cgroup = cgroup_root().join(&name);
        fs::create_dir(&cgroup).expect("a cgroup of our own");
        fs::write(cgroup.join("cgroup.procs"), "0").expect("enter the cgroup");
        let place = Place {
            bpffs: Path::new("/sys/fs/bpf").join(&name),
            uplinks: vec!["uplink".to_owned()],
            cgroup,
        };
        Some(Self { place })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::write(cgroup_root().join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.place.cgroup);
        if let Err(error) = Loaded::remove(&self.place) {
            eprintln!("{error}");
        }
    }
}

/// Where cgroup v2 is mounted.
fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .expect("cgroup v2 is mounted")
}

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .expect("run ip");
    assert!(status.success(), "ip {arguments}");
}

/// A service of one backend on this machine, of the backend's family.
fn add_service(loaded: &mut Loaded, slot: u32, protocol: u8, backend: SocketAddr) {
    let tables = &mut loaded.tables;
    let entry = BackendEntry {
        address: backend.ip().into(),
        id: slot,
        node: 0,
        vpc: 0,
        port_be: backend.port().to_be(),
        state: BACKEND_ACTIVE,
        flags: 0,
    };
    tables.backends.set(slot, entry).unwrap();
    tables.lut.set(slot, slot).unwrap();
    let service = ServiceEntry {
        lut_offset: slot,
        lut_length: 1,
        id: slot,
        ..ServiceEntry::default()
    };
    tables
        .services
        .set(ServiceEntry::index(0, slot), service)
        .unwrap();
    let cluster_ip = match backend {
        SocketAddr::V4(_) => CLUSTER_IP.into(),
        SocketAddr::V6(_) => CLUSTER_IP6.into(),
    };
    add_frontend(loaded, slot, protocol, cluster_ip);
}

fn add_frontend(loaded: &mut Loaded, service: u32, protocol: u8, cluster_ip: IpAddr) {
    let key = FrontendKey::new(0, cluster_ip.into(), protocol, PORT.to_be());
    let index = FrontendKey::index(0, key.buckets()[0]);
    let mut bucket = FrontendBucket::default();
    bucket.entries[0] = FrontendEntry {
        key,
        service,
        flags: FRONTEND_USED | FRONTEND_CLUSTER,
    };
    loaded.tables.frontends.set(index, bucket).unwrap();
}

fn link_ids(place: &Place) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(place.pins().join("links"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn second_loader_adopts_maps_and_replaces_programs_in_their_links() {
    let Some(node) = Node::new() else { return };
    let mut first = Loaded::open(&node.place).expect("load and attach");
    let meta = Meta {
        generation: 7,
        ..Meta::default()
    };
    first.tables.meta.set(0, meta, 0).unwrap();
    let config = Config {
        node_id: 3,
        ..Config::default()
    };
    first.tables.config.set(0, config, 0).unwrap();
    let links = link_ids(&node.place);
    assert_eq!(links.len(), 3 + 8, "{links:?}");
    drop(first);

    let second = Loaded::open(&node.place).expect("adopt and replace");
    assert_eq!(second.tables.meta.get(&0, 0).unwrap(), meta);
    assert_eq!(second.tables.config.get(&0, 0).unwrap(), config);
    assert_eq!(link_ids(&node.place), links);
}

#[test]
fn programs_stay_attached_without_a_loader_and_go_with_their_pins() {
    let Some(node) = Node::new() else { return };
    drop(Loaded::open(&node.place).expect("load and attach"));
    let shown = || {
        let output = Command::new("ip")
            .args(["link", "show", "uplink"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shown().contains("prog/xdp"), "{}", shown());
    Loaded::remove(&node.place).expect("remove everything");
    assert!(!node.place.bpffs.exists());
    // The kernel lets go of a link whose last pin went in its own time.
    let deadline = Instant::now() + Duration::from_secs(10);
    while shown().contains("prog/xdp") {
        assert!(Instant::now() < deadline, "still attached: {}", shown());
    }
}

#[test]
fn pod_link_is_made_once_and_forgotten_with_its_veth() {
    let Some(node) = Node::new() else { return };
    let loaded = Loaded::open(&node.place).expect("load and attach");
    ip("link add pod type veth peer name inside");
    let ifindex = nix::net::if_::if_nametoindex("pod").unwrap();
    loaded.attach_pod_veth(ifindex).expect("attach");
    loaded.attach_pod_veth(ifindex).expect("attach again");
    let pin = format!("pod-{ifindex}");
    assert!(link_ids(&node.place).contains(&pin));

    ip("link del pod");
    drop(loaded);
    let loaded = Loaded::open(&node.place).expect("adopt");
    assert!(
        !link_ids(&node.place).contains(&pin),
        "the dead link was removed"
    );
    loaded
        .detach_pod_veth(ifindex)
        .expect("detaching what has gone is no error");
}

/// Where sockets look for services: a server's address, and the service's as the client names it.
/// The last is how an IPv6 socket names an address of IPv4.
fn ways() -> [(&'static str, IpAddr); 3] {
    [
        ("127.0.0.1:0", CLUSTER_IP.into()),
        ("[::1]:0", CLUSTER_IP6.into()),
        ("127.0.0.1:0", CLUSTER_IP.to_ipv6_mapped().into()),
    ]
}

#[test]
fn tcp_socket_connects_to_a_backend_and_sees_the_service() {
    let Some(node) = Node::new() else { return };
    let mut loaded = Loaded::open(&node.place).expect("load and attach");
    for (slot, (server, service)) in (1..).zip(ways()) {
        let listener = TcpListener::bind(server).unwrap();
        let backend = listener.local_addr().unwrap();
        add_service(&mut loaded, slot, protocol::TCP, backend);

        let service = SocketAddr::from((service, PORT));
        let mut client = TcpStream::connect(service).expect("connect to the service");
        assert_eq!(client.peer_addr().unwrap(), service);
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"hello").unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "hello", "{service}");
    }
}

#[test]
fn udp_socket_is_answered_by_the_service_it_sent_to() {
    let Some(node) = Node::new() else { return };
    let mut loaded = Loaded::open(&node.place).expect("load and attach");
    for (slot, (server, service)) in (1..).zip(ways()) {
        let server = UdpSocket::bind(server).unwrap();
        add_service(
            &mut loaded,
            slot,
            protocol::UDP,
            server.local_addr().unwrap(),
        );

        let service = SocketAddr::from((service, PORT));
        let any = if service.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let client = UdpSocket::bind(any).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        client
            .send_to(b"query", service)
            .expect("send to the service");
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
    let Some(node) = Node::new() else { return };
    let mut loaded = Loaded::open(&node.place).expect("load and attach");
    let server = UdpSocket::bind("[::1]:0").unwrap();
    add_service(&mut loaded, 1, protocol::UDP, server.local_addr().unwrap());
    let client = UdpSocket::bind("[::]:0").unwrap();
    let service = SocketAddr::from((CLUSTER_IP6, PORT));
    client.connect(service).expect("connect to the service");
    assert_eq!(client.peer_addr().unwrap(), service);
    client.send(b"query").unwrap();
    let mut buffer = [0; 16];
    let (length, _) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"query");
}

#[test]
fn socket_is_refused_by_a_service_without_backends() {
    let Some(node) = Node::new() else { return };
    let mut loaded = Loaded::open(&node.place).expect("load and attach");
    for cluster_ip in [IpAddr::from(CLUSTER_IP), CLUSTER_IP6.into()] {
        add_frontend(&mut loaded, 3, protocol::TCP, cluster_ip);
        let error = TcpStream::connect((cluster_ip, PORT)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn socket_is_refused_by_a_backend_of_the_other_family() {
    let Some(node) = Node::new() else { return };
    let mut loaded = Loaded::open(&node.place).expect("load and attach");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = listener.local_addr().unwrap();
    add_service(&mut loaded, 1, protocol::TCP, backend);
    add_frontend(&mut loaded, 1, protocol::TCP, CLUSTER_IP6.into());
    let error = TcpStream::connect((CLUSTER_IP6, PORT)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}
