//! VIPs that change hands, as an ordinary host of the segment sees it.

use std::time::{Duration, Instant};

use fairlead_proto::node::Announcement;

use super::*;

const VIP: &str = "198.18.0.200";
const VIP6: &str = "2001:db8::200";
const HOST_MAC: &str = "02:00:00:00:00:01";
const OTHER_MAC: &str = "02:00:00:00:00:99";

/// The example's state, in which `node` announces VIPs of the segment's own range.
fn announced_by(node: &str) -> DataplaneState {
    let mut state = state();
    let vips: [Vec<u8>; 2] = [
        VIP.parse::<std::net::Ipv4Addr>().unwrap().octets().to_vec(),
        VIP6.parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets()
            .to_vec(),
    ];
    for vip in vips {
        let frontends = &mut state.services[0].frontends;
        frontends.push(fairlead_proto::node::Frontend {
            address: vip.clone().into(),
            ..frontends[0].clone()
        });
        state.announcements.push(Announcement {
            address: vip.into(),
            node: node.to_owned(),
        });
    }
    state
}

/// A host on the node's wire that believes another machine to have the VIPs.
fn believing() -> Option<Fixture> {
    let fixture = Fixture::new()?;
    let host = &fixture.host;
    host.ip(&format!("link set eth0 address {HOST_MAC}"))
        .unwrap();
    for command in [
        "address add 2001:db8::102/64 dev eth0 nodad".to_owned(),
        format!("neighbour replace {VIP} lladdr {OTHER_MAC} dev eth0 nud reachable"),
        format!("neighbour replace {VIP6} lladdr {OTHER_MAC} dev eth0 nud reachable"),
    ] {
        fixture.peer.ip(&command).unwrap();
    }
    fixture.peer.take_xdp_frames("eth0").unwrap();
    Some(fixture)
}

/// Waits until the host on the wire believes the machine with this address to have the VIP.
async fn until_believed(fixture: &Fixture, vip: &str, mac: &str) {
    let known = || fixture.peer.ip(&format!("neighbour show {vip}")).unwrap();
    until(&format!("{vip} is at {mac}"), async || {
        known().contains(mac)
    })
    .await;
}

/// Has the host on the wire claim a VIP, as another node would: it announces it (RFC 5227 §3).
fn claim(fixture: &Fixture) {
    let socket = fixture.peer.run(PacketSocket::open).unwrap().unwrap();
    let link = fixture.peer.ip("-o link show eth0").unwrap();
    let index: u32 = link.split(':').next().unwrap().trim().parse().unwrap();
    let mac = [2, 0, 0, 0, 0, 0x99];
    let frame = crate::announce::gratuitous_arp(VIP.parse().unwrap(), mac);
    socket.send(index, &frame).unwrap();
}

#[test]
fn hosts_follow_a_vip_that_comes_to_this_node_at_once() {
    let Some(fixture) = believing() else {
        return;
    };
    fixture.open(async |dataplane| {
        let before = whole(&announced_by("node-2"));
        dataplane.apply(before, Generation(5)).await.unwrap();
        let start = Instant::now();
        let taken_over = whole(&announced_by("node-1"));
        dataplane.apply(taken_over, Generation(6)).await.unwrap();
        for vip in [VIP, VIP6] {
            until_believed(&fixture, vip, HOST_MAC).await;
        }
        let took = start.elapsed();
        println!("from the state to the neighbour table of a host: {took:?}");
        assert!(
            took < Duration::from_secs(1),
            "not by the first announcement: {took:?}"
        );
    });
}

#[test]
fn node_without_a_session_leaves_a_vip_to_who_claims_it_until_it_is_told_again() {
    let Some(fixture) = believing() else {
        return;
    };
    fixture.open(async |dataplane| {
        let state = whole(&announced_by("node-1"));
        dataplane
            .apply(Arc::clone(&state), Generation(5))
            .await
            .unwrap();
        until_believed(&fixture, VIP, HOST_MAC).await;
        claim(&fixture);
        let is_left = async || dataplane.state().announced().len() == 1;
        until("the VIP is left to who claims it", is_left).await;
        assert_eq!(
            dataplane.state().announced(),
            [VIP6.parse().unwrap()].into()
        );
        dataplane.apply(state, Generation(6)).await.unwrap();
        assert_eq!(dataplane.state().announced().len(), 2);
    });
}

#[test]
fn node_in_a_session_holds_on_to_a_vip_that_somebody_claims() {
    let Some(fixture) = believing() else {
        return;
    };
    fixture.open(async |dataplane| {
        dataplane.set_in_session(true);
        let state = whole(&announced_by("node-1"));
        dataplane.apply(state, Generation(5)).await.unwrap();
        until_believed(&fixture, VIP, HOST_MAC).await;
        fixture
            .peer
            .ip(&format!(
                "neighbour replace {VIP} lladdr {OTHER_MAC} dev eth0 nud reachable"
            ))
            .unwrap();
        claim(&fixture);
        until_believed(&fixture, VIP, HOST_MAC).await;
        assert_eq!(dataplane.state().announced().len(), 2);
    });
}
