//! VIPs that are prefixes, on the wire: the client has a route for them, the servers have all of their
//! addresses.

use std::net::{IpAddr, SocketAddr};

use crate::site::{BALANCER, CLIENT, Family, SERVERS, skip};
use crate::tunnel::Tunnels;

/// The ways to the servers, each at a port of its own.
const WAYS: [(u16, &str); 3] = [(80, "dr"), (81, "tun"), (82, "nat")];
/// Where an address of the prefix has a service of its own.
const SINGLE: u16 = 83;

fn prefix(family: Family) -> &'static str {
    match family {
        Family::V4 => "203.0.113.16/28",
        Family::V6 => "2001:db8:113::/64",
    }
}

/// The first address, the last, and one between.
fn inside(family: Family) -> [IpAddr; 3] {
    let texts = match family {
        Family::V4 => ["203.0.113.16", "203.0.113.31", "203.0.113.20"],
        Family::V6 => ["2001:db8:113::", "2001:db8:113::ffff", "2001:db8:113::20"],
    };
    texts.map(|text| text.parse().unwrap())
}

/// A service of both servers, or the second alone.
fn service(family: Family, vip: &str, port: u16, forwarding: &str, weights: [u16; 2]) -> String {
    let [first, second] = SERVERS.map(|number| family.host(number));
    format!(
        "- name: {family:?}-{port}-{}\n  vips: [\"{vip}\"]\n  ports: [{port}]\n  forwarding: \
         {forwarding}\n  backends:\n  - {{address: \"{first}\", weight: {}}}\n  - {{address: \
         \"{second}\", weight: {}}}\n",
        weights[0], weights[0], weights[1]
    )
}

#[test]
fn every_address_of_a_prefix_is_balanced_by_every_way() {
    if skip() {
        return;
    }
    let mut site = crate::site();
    let servers = site.servers.each_ref();
    let _tunnels = servers.map(|server| Tunnels::end_at(&server.host));
    let mut services = String::new();
    for family in Family::BOTH {
        let (prefix, balancer) = (prefix(family), family.host(BALANCER));
        let to_balancer = format!("route add {prefix} via {balancer}");
        site.client.ip(&to_balancer).unwrap();
        for server in &site.servers {
            let here = format!("route add local {prefix} dev lo");
            server.host.ip(&here).unwrap();
        }
        for (port, forwarding) in WAYS {
            services += &service(family, prefix, port, forwarding, [1, 1]);
        }
        let [.., single] = inside(family).map(|address| address.to_string());
        services += &service(family, prefix, SINGLE, "dr", [1, 0]);
        services += &service(family, &single, SINGLE, "dr", [0, 1]);
    }
    let ports = [80, 81, 82, SINGLE];
    let servers = site.servers.each_ref();
    let _serving = servers.map(|server| server.serve(&ports));
    site.write(&services);
    site.start_and_wait();

    for family in Family::BOTH {
        for (port, forwarding) in WAYS {
            for address in inside(family) {
                let to: SocketAddr = (address, port).into();
                site.wait_for_answer_at(to);
                let mut conversation = site.connect_to(to).unwrap();
                let is_nat = forwarding == "nat";
                let seen_as = family.host(if is_nat { BALANCER } else { CLIENT });
                assert_eq!(conversation.seen_as, seen_as, "{forwarding}, {to}");
                conversation.exchange(100_000).unwrap();
            }
        }
        let [first, last, single] = inside(family).map(|address| (address, SINGLE).into());
        for (to, number) in [
            (first, SERVERS[0]),
            (last, SERVERS[0]),
            (single, SERVERS[1]),
        ] {
            let server = site.wait_for_answer_at(to);
            assert_eq!(server, format!("server {number}"), "{to}");
        }
    }
    let listed = site.view("services").to_string();
    assert!(listed.contains(prefix(Family::V4)), "{listed}");
    assert!(listed.contains(prefix(Family::V6)), "{listed}");
}
