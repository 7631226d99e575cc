//! Whether the programs work in the kernel that runs this: they load, and a packet or a socket goes
//! through each. `cargo xtask kernels` runs it as the first process of a virtual machine; see there
//! for what is around it.
//!
//! Ends with one line that begins with [`VERDICT`], and then waits to be switched off.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic;
use std::thread;

use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use fairlead_dataplane::loader::Programs;
use fairlead_dataplane::object;
use fairlead_dataplane_common::{
    BACKEND_ACTIVE, BackendEntry, FRONTEND_CLUSTER, FrontendKey, mac, protocol,
};
use nix::mount::{MsFlags, mount};
use packet_tests::frame::{ACK, SYN, assert_checksums, tcp, vxlan};
use packet_tests::{CLIENT, NODE_1, NODE_2, POD_1, POD_2, VIP, Verdict, World};

/// What the last line begins with: `xtask/src/kernels` waits for it.
const VERDICT: &str = "kernel-check:";

/// Where cgroup v2 is mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// A service for sockets, and the slot of its only backend, on this machine.
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const BACKEND: u32 = 50;

fn main() {
    let checked = panic::catch_unwind(|| {
        prepare().expect("prepare the machine");
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").expect("read the release");
        println!("{}", check());
        kernel.trim().to_owned()
    });
    match checked {
        Ok(kernel) => println!("{VERDICT} passed on {kernel}"),
        Err(_) => println!("{VERDICT} failed"),
    }
    // The first process of a machine must not end.
    loop {
        thread::park();
    }
}

/// Mounts what the kernel shows of itself, and brings up the loopback.
fn prepare() -> io::Result<()> {
    for (kind, point) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("bpf", "/sys/fs/bpf"),
        ("cgroup2", CGROUPS),
    ] {
        fs::create_dir_all(point)?;
        mount(
            Some(kind),
            point,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )?;
    }
    /// `IFF_UP` of linux/if.h.
    const UP: &str = "0x1";
    fs::write("/sys/class/net/lo/flags", UP)
}

/// Panics unless everything works; answers what was done.
fn check() -> String {
    let object = object::embedded().expect("the object is built before this program");
    let (programs, tables) = match Programs::load(object, None) {
        Ok(loaded) => loaded,
        Err(error) => {
            // The verifier's log is among the causes.
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = cause {
                println!("{error}");
                cause = error.source();
            }
            panic!("the programs do not load");
        }
    };
    let mut world = World::of(programs, tables);
    let packets = packets();
    for (description, program, frame, verdict) in &packets {
        println!("{program}: {description}");
        let outcome = world.run(program, frame);
        assert_eq!(outcome.verdict, *verdict, "{description}");
        assert_checksums(&outcome.frame);
    }
    sockets(&mut world);
    format!(
        "all programs load, {} packets are right, sockets are translated",
        packets.len()
    )
}

/// A packet for each way through the programs on packets.
fn packets() -> Vec<(&'static str, &'static str, Vec<u8>, Verdict)> {
    let to_vip = |port| tcp((CLIENT, 40_000), (VIP, port), SYN, b"");
    vec![
        (
            "a packet for a pod of another node is encapsulated",
            "xdp_ingress",
            to_vip(82),
            Verdict::Transmit,
        ),
        (
            "a packet for a pod of this node passes",
            "xdp_ingress",
            to_vip(81),
            Verdict::Pass,
        ),
        (
            "a packet for a pod of this node is delivered",
            "tc_uplink_in",
            to_vip(81),
            Verdict::Redirect,
        ),
        (
            "another node's packet for a backend is taken out of its tunnel",
            "tc_uplink_in",
            vxlan(NODE_2, NODE_1, 0, mac::of_backend(101), &to_vip(81)),
            Verdict::Redirect,
        ),
        (
            "a packet of this node's for a pod elsewhere is encapsulated",
            "tc_uplink_out",
            tcp((NODE_1, 40_000), (POD_2, 8080), SYN, b""),
            Verdict::Redirect,
        ),
        (
            "a pod's answer is sent in the VIP's name",
            "tc_from_pod",
            tcp((POD_1, 8080), (CLIENT, 40_000), ACK, b""),
            Verdict::Pass,
        ),
        (
            "a pod's packet for a pod elsewhere is encapsulated",
            "tc_from_pod",
            tcp((POD_1, 40_000), (POD_2, 8080), SYN, b""),
            Verdict::Redirect,
        ),
    ]
}

/// Real sockets that ask for a service's address, and are shown it again.
fn sockets(world: &mut World) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
    let port = listener.local_addr().expect("its address").port();
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).expect("the same port of UDP");
    let backend = BackendEntry {
        address: Ipv4Addr::LOCALHOST.into(),
        id: BACKEND,
        node: 0,
        vpc: 0,
        port_be: port.to_be(),
        state: BACKEND_ACTIVE,
        flags: 0,
    };
    world
        .tables
        .backends
        .set(BACKEND, backend)
        .expect("write the backend");
    for protocol in [protocol::TCP, protocol::UDP] {
        let service = world.add_service(protocol, 1, &[BACKEND]);
        let key = FrontendKey::new(0, CLUSTER_IP.into(), protocol, 80_u16.to_be());
        world.add_frontend(key, service, FRONTEND_CLUSTER);
    }
    for name in [
        "sock_connect4",
        "sock_sendmsg4",
        "sock_recvmsg4",
        "sock_getpeername4",
    ] {
        println!("{name}: attach");
        let program = world
            .programs_mut()
            .get_mut(name)
            .expect("the object has it");
        let program: &mut CgroupSockAddr = program.try_into().expect("a program for sockets");
        let cgroup = File::open(CGROUPS).expect("open the cgroup of all processes");
        program
            .attach(cgroup, CgroupAttachMode::Single)
            .expect("attach");
    }

    let asked = SocketAddr::from((CLUSTER_IP, 80));
    let stream = TcpStream::connect(asked).expect("connect to the service");
    assert_eq!(stream.peer_addr().expect("a peer"), asked);
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    client.send_to(b"question", asked).expect("send");
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer).expect("receive");
    server.send_to(&buffer[..length], from).expect("answer");
    let (_, from) = client.recv_from(&mut buffer).expect("receive the answer");
    assert_eq!(from, asked);
}
