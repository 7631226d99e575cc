use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use aya::programs::Program;
use aya::programs::xdp::XdpMode;
use bench_nic::{Flows, Sender, Traffic, interface};
use fairlead_dataplane::object;
use fairlead_dataplane_common::protocol;
use packet_tests::World;
use testbed::NetNs;

use crate::services;

/// Flows that take turns.
const FLOWS: u32 = 4096;

/// Who sends.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The node, where packets arrive.
const NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The service of nftables.
const VIP: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// The first of the backends behind the node.
const BACKEND: Ipv4Addr = Ipv4Addr::new(198, 18, 128, 10);
/// Backends behind the node, as many as ours have.
const BACKENDS: u32 = 10;
/// The service's port.
const PORT: u16 = services::PORT;

/// What a node does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// Our program; the packets leave as they came, and their sink is where they came from.
    Fairlead {
        /// Whether frames are passed on as they are, and not encapsulated.
        dr: bool,
    },
    /// The kernel rewrites their destination by nftables and forwards them.
    Nftables,
    /// The kernel forwards them.
    Forward,
}

impl Path {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fairlead { dr: true } => "fairlead",
            Self::Fairlead { dr: false } => "fairlead_tun",
            Self::Nftables => "nftables",
            Self::Forward => "forward",
        }
    }
}

/// A generator, a node and a sink.
pub(super) struct Lane {
    pub(super) path: Path,
    pub(super) services: u32,
    pub(super) generator: NetNs,
    pub(super) traffic: Traffic,
    ifindex: u32,
    flows: Flows,
    // What keeps the node as it is.
    _node: NetNs,
    _behind: Option<NetNs>,
    _world: Option<Box<World>>,
}

impl Lane {
    pub(super) fn new(path: Path, services: u32, programs: &[u8]) -> Result<Self> {
        let generator = NetNs::unique("bench-gen")?;
        let node = NetNs::unique("bench-node")?;
        join(&generator, "g0", &node, "n0")?;
        let mut traffic = Traffic::load(programs)?;
        // Also where nothing comes back: only with a program has a veth queues for live frames.
        generator.run(|| traffic.attach_sink("g0"))??;

        let mut behind = None;
        let mut world = None;
        let destination = match path {
            Path::Fairlead { dr } => {
                let balancer = Box::new(balance(&node, services)?);
                world = Some(balancer);
                let port = if dr { services::PORT_DR } else { PORT };
                SocketAddrV4::new(services::vip(services - 1), port)
            }
            Path::Nftables | Path::Forward => {
                let sink = NetNs::unique("bench-sink")?;
                join(&node, "n1", &sink, "s0")?;
                sink.run(|| traffic.attach_sink("s0"))??;
                route(&node, sink.run(|| interface::mac("s0"))??)?;
                behind = Some(sink);
                if path == Path::Nftables {
                    translate(&node)?;
                    SocketAddrV4::new(VIP, PORT)
                } else {
                    SocketAddrV4::new(BACKEND, PORT)
                }
            }
        };
        let flows = Flows {
            source_mac: generator.run(|| interface::mac("g0"))??,
            destination_mac: node.run(|| interface::mac("n0"))??,
            source: SocketAddrV4::new(CLIENT, 10_000),
            destination,
            count: FLOWS,
            frame_bytes: 60,
            is_timed: false,
        };
        traffic.set_flows(&flows)?;
        let ifindex = generator.run(|| interface::index("g0"))??;
        Ok(Self {
            path,
            services,
            generator,
            traffic,
            ifindex,
            flows,
            _node: node,
            _behind: behind,
            _world: world,
        })
    }

    /// What sends the lane's packets, on a thread in the generator's namespace.
    pub(super) fn sender(&self) -> Result<Sender<'_>> {
        self.traffic.sender(self.ifindex, &self.flows)
    }
}

/// Joins two namespaces by a link that takes frames from XDP at both ends.
fn join(left: &NetNs, near: &str, right: &NetNs, far: &str) -> Result<()> {
    let peer = right.name();
    left.ip(&format!(
        "link add {near} type veth peer name {far} netns {peer}"
    ))?;
    for (host, link) in [(left, near), (right, far)] {
        host.sysctl(&format!("net.ipv6.conf.{link}.disable_ipv6"), "1")?;
        host.ip(&format!("link set {link} up"))?;
        // Only now: GRO of a link that is down does not make its peer a target of XDP
        // (`veth_set_features` in drivers/net/veth.c).
        host.make_wire_like(link)?;
    }
    Ok(())
}

/// Lets our program balance `services` services at the node's link.
fn balance(node: &NetNs, services: u32) -> Result<World> {
    let mut world = World::load(object::embedded()?, None);
    services::fill(&mut world, services, protocol::UDP)?;
    let Program::Xdp(program) = world.programs_mut().get_mut("xdp_ingress")? else {
        anyhow::bail!("xdp_ingress is no XDP program");
    };
    node.run(|| program.attach("n0", XdpMode::Driver))?
        .context("attach xdp_ingress")?;
    Ok(world)
}

/// Lets the kernel forward what is for the backends.
fn route(node: &NetNs, sink_mac: [u8; 6]) -> Result<()> {
    let sink_mac = sink_mac.map(|byte| format!("{byte:02x}")).join(":");
    node.sysctl("net.ipv4.ip_forward", "1")?;
    let backends = (0..BACKENDS).map(|index| Ipv4Addr::from(u32::from(BACKEND) + index));
    let mut lines = vec![
        format!("address add {NODE}/24 dev n0"),
        "address add 198.18.128.1/24 dev n1".to_owned(),
    ];
    lines.extend(backends.map(|address| format!("neigh add {address} lladdr {sink_mac} dev n1")));
    node.ip_batch(&lines)
}

/// Spreads the flows of the service over the backends, each to one by its source.
fn translate(node: &NetNs) -> Result<()> {
    let backends: Vec<String> = (0..BACKENDS)
        .map(|index| format!("{index} : {}", Ipv4Addr::from(u32::from(BACKEND) + index)))
        .collect();
    let rules = format!(
        "table ip bench {{\nchain prerouting {{\ntype nat hook prerouting priority dstnat\n\
         ip daddr {VIP} udp dport {PORT} dnat to jhash ip saddr . udp sport mod {BACKENDS} \
         map {{ {} }}\n}}\n}}\n",
        backends.join(", ")
    );
    let mut nft = node
        .command("nft")?
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("run nft")?;
    nft.stdin
        .take()
        .expect("its standard input is a pipe")
        .write_all(rules.as_bytes())
        .context("hand rules to nft")?;
    let status = nft.wait().context("wait for nft")?;
    ensure!(status.success(), "nft refused the rules: {rules}");
    Ok(())
}
