//! Every way to the servers on the wire: dr, tun by IP in IP and GUE over both families, and nat; TCP
//! and datagrams of both families.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sys::signal::Signal;
use testbed::Deadline;

use crate::client::{Conversation, Datagrams, Load};
use crate::server::Serving;
use crate::site::{BALANCER, CLIENT, Family, PATIENCE, SERVERS, Site, skip};
use crate::tunnel::Tunnels;

/// A way to the servers, at a port of the VIPs of its own.
#[derive(Clone, Copy, Debug)]
struct Way {
    port: u16,
    forwarding: &'static str,
    tunnel: &'static str,
    /// Of the servers' addresses; nothing if they are the VIP's family's.
    servers: Option<Family>,
}

/// Bytes of a line that takes many packets as large as they may be.
const LINE: usize = 100_000;

const WAYS: [Way; 6] = [
    way(80, "dr", "ipip", None),
    way(81, "tun", "ipip", Some(Family::V4)),
    way(82, "tun", "gue", Some(Family::V4)),
    way(83, "tun", "ipip", Some(Family::V6)),
    way(84, "tun", "gue", Some(Family::V6)),
    way(85, "nat", "ipip", None),
];

const fn way(
    port: u16,
    forwarding: &'static str,
    tunnel: &'static str,
    servers: Option<Family>,
) -> Way {
    Way {
        port,
        forwarding,
        tunnel,
        servers,
    }
}

impl Way {
    fn is_nat(&self) -> bool {
        self.forwarding == "nat"
    }

    /// As which address the servers see the client.
    fn seen_as(&self, family: Family) -> IpAddr {
        family.host(if self.is_nat() { BALANCER } else { CLIENT })
    }

    /// The services of this way: one for each protocol and family of VIPs.
    fn services(&self, segment: u8, weights: [u16; 2]) -> String {
        let mut text = String::new();
        for protocol in ["tcp", "udp"] {
            for family in Family::BOTH {
                let servers = self.servers.unwrap_or(family);
                text.push_str(&format!(
                    "- name: {protocol}-{family:?}-{}\n  vips: [\"{}\"]\n  ports: [{}]\n  protocol: \
                     {protocol}\n  forwarding: {}\n  tunnel: {}\n  announce: true\n  backends:\n",
                    self.port,
                    family.vip(),
                    self.port,
                    self.forwarding,
                    self.tunnel
                ));
                for (number, weight) in SERVERS.into_iter().zip(weights) {
                    let address = servers.host_on(segment, number);
                    text.push_str(&format!(
                        "  - {{address: \"{address}\", weight: {weight}}}\n"
                    ));
                }
            }
        }
        text
    }
}

/// Lets the servers serve every way of `ways` over TCP and UDP.
fn serve(site: &Site, ways: &[Way]) -> Vec<Serving> {
    let ports: Vec<u16> = ways.iter().map(|way| way.port).collect();
    let servings = site.servers.iter().flat_map(|server| {
        let places: Vec<SocketAddr> = ways
            .iter()
            .flat_map(|way| {
                Family::BOTH.map(|family| {
                    let at = if way.is_nat() {
                        server.address(family)
                    } else {
                        family.vip()
                    };
                    (at, way.port).into()
                })
            })
            .collect();
        [server.serve(&ports), server.answer(&places)]
    });
    servings.collect()
}

fn all(ways: &[Way], segment: u8, weights: [u16; 2]) -> String {
    ways.iter()
        .map(|way| way.services(segment, weights))
        .collect()
}

/// Asks until there is an answer, as a client does that has to learn what fits the way, or whose
/// neighbours are not known yet.
fn ask(site: &Site, to: SocketAddr, data: &[u8]) -> (String, IpAddr) {
    let flow = site.client.run(|| Datagrams::to(to)).unwrap().unwrap();
    let answer = Deadline::after(PATIENCE).wait_for("an answer", || Ok(flow.ask(data).ok()));
    answer.unwrap_or_else(|error| {
        panic!(
            "{} bytes to {to}: {error:#}; {}; the log:\n{}",
            data.len(),
            site.view("drops"),
            site.log()
        )
    })
}

/// Checks a way in one family: TCP with more than fits any buffer, and a datagram of several fragments.
fn check(site: &Site, way: &Way, family: Family) {
    let to = (family.vip(), way.port).into();
    site.wait_for_answer_at(to);
    let mut answered = std::collections::BTreeSet::new();
    for attempt in 0..16 {
        let conversation = site.connect_to(to);
        let mut conversation =
            conversation.unwrap_or_else(|error| panic!("{way:?}, {family:?}: {error}"));
        assert_eq!(conversation.seen_as, way.seen_as(family), "{way:?}");
        if attempt < 2 {
            let exchanged = conversation.exchange(LINE);
            exchanged.unwrap_or_else(|error| {
                panic!("{way:?}, {family:?}: {error}; {}", site.view("drops"))
            });
        }
        answered.insert(conversation.server);
    }
    assert_eq!(answered.len(), 2, "{way:?}, {family:?}");
    let data: Vec<u8> = (0..4_000_u32).map(|byte| (byte % 251) as u8 + 1).collect();
    for data in [&data[..5], &data] {
        let (server, seen_as) = ask(site, to, data);
        assert!(answered.contains(&server), "{server}");
        assert_eq!(seen_as, way.seen_as(family), "{way:?}");
    }
}

/// Ends the tunnels that lead to the servers, for as long as what is returned is kept.
fn end_tunnels(site: &Site) -> [Tunnels; 2] {
    site.servers
        .each_ref()
        .map(|server| Tunnels::end_at(&server.host))
}

#[test]
fn every_way_carries_connections_and_datagrams_of_both_families() {
    if skip() {
        return;
    }
    let mut site = crate::site();
    let _tunnels = end_tunnels(&site);
    let _serving = serve(&site, &WAYS);
    site.write(&all(&WAYS, 0, [1, 1]));
    site.start_and_wait();
    for way in &WAYS {
        for family in Family::BOTH {
            check(&site, way, family);
        }
    }
}

#[test]
fn connections_and_flows_of_every_way_outlive_reloads_and_restarts() {
    if skip() {
        return;
    }
    let mut site = crate::site();
    let _tunnels = end_tunnels(&site);
    let ways = [WAYS[0], WAYS[1], WAYS[4], WAYS[5]];
    let _serving = serve(&site, &ways);
    site.write(&all(&ways, 0, [1, 1]));
    site.start_and_wait();
    let places = ways.iter().flat_map(|way| {
        Family::BOTH.map(|family| -> SocketAddr { (family.vip(), way.port).into() })
    });
    let places: Vec<SocketAddr> = places.collect();
    for place in &places {
        site.wait_for_answer_at(*place);
        ask(&site, *place, b"hello");
    }
    let load = Load::start(&site, places.clone(), places);
    for weights in [[3, 1], [1, 3], [1, 0], [1, 1]] {
        site.reload(&all(&ways, 0, weights));
    }
    site.stop(Signal::SIGKILL);
    site.start_and_wait();
    assert!(load.finish(&site) > 5);
}

#[test]
fn servers_behind_another_interface_are_reached_by_nat() {
    if skip() {
        return;
    }
    let mut site = Site::with_servers_behind();
    let way = WAYS[5];
    let _serving = serve(&site, &[way]);
    site.write(&way.services(1, [1, 1]));
    site.start_and_wait();
    for family in Family::BOTH {
        check(&site, &way, family);
    }
}

#[test]
fn server_may_be_a_client_of_itself_by_nat() {
    if skip() {
        return;
    }
    let mut site = Site::new();
    let way = WAYS[5];
    let _serving = serve(&site, &[way]);
    site.write(&way.services(0, [1, 0]));
    site.start_and_wait();
    for family in Family::BOTH {
        let to = (family.vip(), way.port).into();
        site.wait_for_answer_at(to);
        let server = &site.servers[0];
        let own = server.host.run(|| {
            let mut own = Conversation::open(to)?;
            own.exchange(LINE)?;
            Ok::<_, std::io::Error>((own.server, own.seen_as))
        });
        let name = format!("server {}", SERVERS[0]);
        assert_eq!(own.unwrap().unwrap(), (name, way.seen_as(family)));
    }
}

#[test]
fn errors_reach_clients_and_servers_through_nat() {
    if skip() {
        return;
    }
    let mut site = Site::new();
    let way = WAYS[5];
    site.write(&way.services(0, [1, 0]));
    site.start_and_wait();
    for family in Family::BOTH {
        let to: SocketAddr = (family.vip(), way.port).into();
        // Nobody listens: the server's kernel says so, and the client hears it of the VIP.
        let flow = site.client.run(|| Datagrams::to(to)).unwrap().unwrap();
        let refused = Deadline::after(PATIENCE).until("a refusal", || {
            let asked = flow.ask(b"anybody?");
            asked.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
        refused.unwrap_or_else(|error| panic!("{family:?}: {error:#}; {}", site.view("drops")));

        // And the other way round: the client has gone before the server answers.
        let server = &site.servers[0];
        let place = (server.address(family), way.port);
        let socket = server.host.run(|| UdpSocket::bind(place)).unwrap().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        flow.ask(b"x").expect_err("the socket does not answer");
        drop(flow);
        let (_, client) = socket.recv_from(&mut [0; 100]).unwrap();
        assert_eq!(client.ip(), way.seen_as(family));
        socket.connect(client).unwrap();
        socket.send(b"too late").unwrap();
        let heard = socket.recv(&mut [0; 100]).unwrap_err();
        assert_eq!(heard.kind(), ErrorKind::ConnectionRefused, "{family:?}");
    }
}

#[test]
fn flow_that_finds_no_port_is_refused_and_counted_and_those_that_have_one_go_on() {
    if skip() {
        return;
    }
    let mut site = Site::new();
    let way = WAYS[5];
    let _serving = serve(&site, &[way]);
    site.write(&way.services(0, [1, 0]));
    site.start_and_wait();
    let to: SocketAddr = (Family::V4.vip(), way.port).into();
    ask(&site, to, b"hello");
    let kept = site.client.run(|| Datagrams::to(to)).unwrap().unwrap();
    kept.ask(b"hello").unwrap();
    // More than there are ports of the node.
    let sent = site.client.run(|| {
        for port in 1_024..32_000 {
            let socket = UdpSocket::bind(("0.0.0.0", port))?;
            socket.send_to(b"one of many", to)?;
        }
        Ok::<_, std::io::Error>(())
    });
    sent.unwrap().unwrap();
    let deadline = Deadline::after(PATIENCE);
    let refused = deadline.until("refusals", || site.drops("NatExhausted") > 0);
    refused.unwrap_or_else(|error| panic!("{error:#}; {}", site.view("drops")));
    kept.ask(b"still there?").unwrap();
    // Of TCP there are as many again, and none is taken.
    site.connect_to(to).unwrap();
}
