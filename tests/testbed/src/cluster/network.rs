//! The test network: a switch, the hosts plugged into it, and a client behind a router.
//!
//! ```text
//!   control-N 198.18.0.1N ─┐
//!      node-N 198.18.0.10N ┼─ switch ─ 198.18.0.1 router 198.18.1.1 ─ 198.18.1.10 client
//! ```
//! Each has an IPv6 address too: `2001:db8::1N`, `2001:db8::10N`, `2001:db8::1` and
//! `2001:db8:1::1`, `2001:db8:1::10`.
//!
//! The router sends the virtual addresses to all nodes, each flow to one of them, as a router
//! that learned the same route from several neighbours does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::layout::{
    CLIENT, CLIENT_V6, Layout, PREFIX_LENGTH, PREFIX_LENGTH_V6, ROUTER, ROUTER_OUTSIDE,
    ROUTER_OUTSIDE_V6, ROUTER_V6, address, address_v6,
};
use super::spec::{Host, Spec, VIP_POOL, VIP_POOL_V6};
use crate::NetNs;

/// What is done in one host's namespace once all namespaces are there.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    host: Host,
    /// `ip` commands.
    ip: Vec<String>,
    /// Devices that must behave as ends of a wire.
    wires: Vec<String>,
    sysctls: Vec<(&'static str, &'static str)>,
}

/// Settings of a host that forwards what others send and answers for addresses it routes
/// elsewhere: a reply that leaves with a virtual address has no route back by the same link.
const FORWARDING: [(&str, &str); 5] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.eth0.rp_filter", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
];

/// Makes every host's namespace, and the links between them.
///
/// # Errors
/// A namespace of the same name exists, or a command failed.
pub(super) fn build(spec: &Spec, layout: &Layout) -> Result<()> {
    let mut hosts = Vec::new();
    for host in spec.hosts() {
        let mut netns = NetNs::create(&layout.netns(host))?;
        netns.keep();
        hosts.push((host, netns));
    }
    for step in plan(spec, layout) {
        let (_, netns) = hosts
            .iter()
            .find(|(host, _)| *host == step.host)
            .expect("every step is for a host of the spec");
        netns.ip_batch(&step.ip)?;
        for device in &step.wires {
            netns.make_wire_like(device)?;
            if step.host == Host::Switch {
                netns.take_xdp_frames(device)?;
            }
        }
        for (key, value) in &step.sysctls {
            netns.sysctl(key, value)?;
        }
    }
    Ok(())
}

fn plan(spec: &Spec, layout: &Layout) -> Vec<Step> {
    let mut steps = vec![switch(spec, layout), router(spec, layout), client()];
    steps.extend(
        spec.control_hosts()
            .map(|host| plugged_in(host, Vec::new())),
    );
    steps.extend(
        spec.node_hosts()
            .map(|host| plugged_in(host, FORWARDING.to_vec())),
    );
    steps
}

/// The switch makes the links: a veth for each host, one end a port here, the other its eth0.
fn switch(spec: &Spec, layout: &Layout) -> Step {
    let mut ip = vec![
        "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0".to_owned(),
        "link set br0 up".to_owned(),
    ];
    let ports: Vec<_> = spec
        .hosts()
        .into_iter()
        .filter(|host| !matches!(host, Host::Switch | Host::Client))
        .collect();
    for host in &ports {
        let netns = layout.netns(*host);
        ip.push(format!(
            "link add {host} type veth peer name eth0 netns {netns}"
        ));
        ip.push(format!("link set {host} master br0 up"));
    }
    Step {
        host: Host::Switch,
        ip,
        wires: ports.iter().map(Host::to_string).collect(),
        sysctls: Vec::new(),
    }
}

/// Gives a device its addresses and brings it up. Nobody waits to learn whether an address is a
/// duplicate.
fn addressed(device: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> [String; 3] {
    [
        format!("addr add {v4}/{PREFIX_LENGTH} dev {device}"),
        format!("addr add {v6}/{PREFIX_LENGTH_V6} dev {device} nodad"),
        format!("link set {device} up"),
    ]
}

fn router(spec: &Spec, layout: &Layout) -> Step {
    let client = layout.netns(Host::Client);
    let nodes = || spec.node_hosts();
    let next_hop = |ip: IpAddr| format!(" nexthop via {ip}");
    let next_hops: String = nodes()
        .filter_map(address)
        .map(|ip| next_hop(ip.into()))
        .collect();
    let next_hops_v6: String = nodes()
        .filter_map(address_v6)
        .map(|ip| next_hop(ip.into()))
        .collect();
    let mut sysctls = FORWARDING.to_vec();
    sysctls.extend([
        ("net.ipv4.conf.eth1.rp_filter", "0"),
        ("net.ipv6.conf.all.forwarding", "1"),
        // Addresses and ports choose the next hop, so that a client's flows are spread.
        ("net.ipv4.fib_multipath_hash_policy", "1"),
        ("net.ipv6.fib_multipath_hash_policy", "1"),
    ]);
    let mut ip = addressed("eth0", ROUTER, ROUTER_V6).to_vec();
    ip.push(format!(
        "link add eth1 type veth peer name eth0 netns {client}"
    ));
    ip.extend(addressed("eth1", ROUTER_OUTSIDE, ROUTER_OUTSIDE_V6));
    ip.push(format!("route add {VIP_POOL}{next_hops}"));
    ip.push(format!("route add {VIP_POOL_V6}{next_hops_v6}"));
    Step {
        host: Host::Router,
        ip,
        wires: vec!["eth0".to_owned(), "eth1".to_owned()],
        sysctls,
    }
}

fn client() -> Step {
    let mut ip = addressed("eth0", CLIENT, CLIENT_V6).to_vec();
    ip.push(format!("route add default via {ROUTER_OUTSIDE}"));
    ip.push(format!("route add default via {ROUTER_OUTSIDE_V6}"));
    Step {
        host: Host::Client,
        ip,
        wires: vec!["eth0".to_owned()],
        // A load generator opens connections faster than closed ones are forgotten.
        sysctls: vec![
            ("net.ipv4.ip_local_port_range", "1024 65535"),
            ("net.ipv4.tcp_tw_reuse", "1"),
        ],
    }
}

fn plugged_in(host: Host, sysctls: Vec<(&'static str, &'static str)>) -> Step {
    let (Some(v4), Some(v6)) = (address(host), address_v6(host)) else {
        unreachable!("every host but the switch has addresses");
    };
    let mut ip = addressed("eth0", v4, v6).to_vec();
    ip.push(format!("route add default via {ROUTER}"));
    ip.push(format!("route add default via {ROUTER_V6}"));
    Step {
        host,
        ip,
        wires: vec!["eth0".to_owned()],
        sysctls,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;

    use super::*;
    use crate::cgroup::Hierarchies;
    use crate::cluster::Remains;

    fn layout(name: &str, folder: &Path) -> Layout {
        let hierarchies = Hierarchies::mounted().unwrap_or(Hierarchies {
            unified: folder.to_owned(),
            legacy: Vec::new(),
        });
        Layout::new(name, folder, hierarchies)
    }

    #[test]
    fn the_router_spreads_virtual_addresses_over_all_nodes() {
        let spec = Spec::named("a").nodes(2);
        let step = router(&spec, &layout("a", Path::new("/t")));
        for route in [
            "route add 198.18.100.0/24 nexthop via 198.18.0.101 nexthop via 198.18.0.102",
            "route add 2001:db8:100::/120 nexthop via 2001:db8::101 nexthop via 2001:db8::102",
        ] {
            assert!(step.ip.contains(&route.to_owned()), "{:#?}", step.ip);
        }
    }

    #[test]
    fn only_nodes_and_the_router_forward() {
        let spec = Spec::named("a");
        for step in plan(&spec, &layout("a", Path::new("/t"))) {
            let forwards = step.sysctls.contains(&("net.ipv4.ip_forward", "1"));
            let expect = matches!(step.host, Host::Router | Host::Node(_));
            assert_eq!(forwards, expect, "{}", step.host);
        }
    }

    #[test]
    fn a_built_network_carries_tcp_from_the_client_to_every_node_and_is_removed_whole() {
        if crate::skip_without_root() {
            return;
        }
        let folder = tempfile::tempdir().expect("make a folder");
        let name = format!("net-{}", std::process::id());
        let spec = Spec::named(&name).nodes(2);
        let layout = layout(&name, folder.path());
        build(&spec, &layout).expect("build");
        let client = NetNs::open(&layout.netns(Host::Client)).expect("open the client");
        for host in spec.node_hosts().chain(spec.control_hosts()) {
            let netns = NetNs::open(&layout.netns(host)).expect("open the host");
            let (v4, v6) = (address(host), address_v6(host));
            for ip in [v4.map(IpAddr::from), v6.map(IpAddr::from)] {
                let ip = ip.expect("it has one");
                let listener = netns
                    .run(|| TcpListener::bind((ip, 0)))
                    .expect("enter")
                    .expect("bind");
                let target = listener.local_addr().expect("bound");
                let stream = client
                    .run(|| TcpStream::connect(target))
                    .expect("enter")
                    .expect("connect through the router");
                let (_, peer) = listener.accept().expect("accept");
                assert_eq!(peer, stream.local_addr().expect("connected"));
            }
        }
        Remains::of(&layout).remove().expect("remove");
        assert!(Remains::of(&layout).is_empty());
    }
}
