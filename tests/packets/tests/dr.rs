//! dr: frames passed on as they are to a node of the same segment, which makes the same pick.

use fairlead_dataplane_common::{
    DropReason, FRONTEND_EXTERNAL, FRONTEND_NODE_PORT, FrontendKey, mac, protocol,
};
use packet_tests::frame::{
    self, ACK, NETWORK, OVERHEAD, OWN_MAC, SYN, assert_checksums, ends, tcp,
};
use packet_tests::{
    CLIENT, CLIENT_V6, NODE_1, NODE_2_MAC, POD_1, POD_1_V6, VIP, VIP_V6, Verdict, World, frame_v6,
};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";

/// Of another node, as the sender of a frame that it passed on.
fn passed_on(mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mac::of_node(2));
    frame
}

/// A world with the service of port 90 at both VIPs, on nodes 1 and 2 (backends 101 and 102, 111 and
/// 112), and of port 91 on node 2 alone, that may be passed on.
fn world() -> Option<World> {
    let mut world = World::open()?;
    world.set_adjacent(1, true);
    let slots = [
        world.add_service(protocol::TCP, 90, &[1, 2]),
        world.add_service_at(VIP_V6.into(), protocol::TCP, 90, &[11, 12]),
        world.add_service(protocol::TCP, 91, &[2]),
        world.add_service_at(VIP_V6.into(), protocol::TCP, 91, &[12]),
    ];
    for (slot, local) in slots.into_iter().zip([&[1][..], &[11], &[], &[]]) {
        world.allow_dr(slot, local);
    }
    Some(world)
}

#[test]
fn frame_for_a_node_of_the_segment_changes_its_mac_addresses_only() {
    let Some(mut world) = world() else {
        return;
    };
    let frames = [
        (2, tcp((CLIENT, 40_000), (VIP, 91), ACK, b"data")),
        (
            12,
            frame_v6::tcp((CLIENT_V6, 40_000), (VIP_V6, 91), ACK, b"data"),
        ),
    ];
    for (backend, frame) in frames {
        let outcome = world.run(XDP, &frame);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        assert_eq!(outcome.frame[..6], NODE_2_MAC);
        assert_eq!(outcome.frame[6..12], mac::of_node(1));
        assert_eq!(outcome.frame[12..], frame[12..]);
        assert_eq!(world.backend_stats(backend).packets, 1);
    }
}

#[test]
fn node_behind_a_router_gets_the_packet_encapsulated() {
    let Some(mut world) = world() else {
        return;
    };
    world.set_adjacent(1, false);
    let frame = tcp((CLIENT, 40_000), (VIP, 91), SYN, b"");
    let outcome = world.run(XDP, &frame);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    assert_eq!(outcome.frame.len(), frame.len() + OVERHEAD);
    assert_eq!(outcome.frame[50..56], mac::of_backend(102));
}

#[test]
fn packet_for_a_node_port_names_its_backend_because_no_other_node_has_the_address() {
    let Some(mut world) = world() else {
        return;
    };
    let slot = world.add_service(protocol::TCP, 92, &[2]);
    world.allow_dr(slot, &[]);
    let port_be = 30_092_u16.to_be();
    let key = FrontendKey::new(0, NODE_1.into(), protocol::TCP, port_be);
    world.add_frontend(key, slot, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT);
    for port in [92, 30_092] {
        let to = if port == 92 { VIP } else { NODE_1 };
        let outcome = world.run(XDP, &tcp((CLIENT, 40_000), (to, port), SYN, b""));
        assert_eq!(outcome.verdict, Verdict::Transmit);
        let names_it = outcome.frame.get(50..56) == Some(&mac::of_backend(102)[..]);
        assert_eq!(names_it, port == 30_092, "port {port}");
    }
}

#[test]
fn service_that_asks_for_tun_is_encapsulated_on_the_same_segment_too() {
    let Some(mut world) = world() else {
        return;
    };
    let outcome = world.run(XDP, &tcp((CLIENT, 40_000), (VIP, 82), SYN, b""));
    assert_eq!(outcome.verdict, Verdict::Transmit);
    assert_eq!(outcome.frame[50..56], mac::of_backend(102));
}

#[test]
fn frame_that_was_passed_on_reaches_a_pod_here_whatever_the_own_pick_is() {
    let Some(mut world) = world() else {
        return;
    };
    let mut picked_elsewhere = 0;
    for port in 40_000..40_032 {
        let frame = tcp((CLIENT, port), (VIP, 90), ACK, b"data");
        picked_elsewhere += u32::from(world.run(XDP, &frame).verdict == Verdict::Transmit);
        let frame = passed_on(frame);
        let outcome = world.run(XDP, &frame);
        assert_eq!(outcome.verdict, Verdict::Pass, "never to a third node");
        assert_eq!(outcome.frame, frame);
        let outcome = world.run(IN, &frame);
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert_eq!(ends(&outcome.frame), ((CLIENT, port), (POD_1, 8080)));
        assert_checksums(&outcome.frame);
    }
    assert!(
        (1..32).contains(&picked_elsewhere),
        "{picked_elsewhere} of 32"
    );
    let counted = world.backend_stats(1).packets + world.backend_stats(2).packets;
    assert_eq!(
        counted,
        u64::from(picked_elsewhere),
        "counted where they entered only"
    );

    let outcome = world.run(
        "tc_from_pod",
        &tcp((POD_1, 8080), (CLIENT, 40_000), ACK, b"answer"),
    );
    assert_eq!(ends(&outcome.frame), ((VIP, 90), (CLIENT, 40_000)));
    assert_checksums(&outcome.frame);
}

#[test]
fn ipv6_frame_that_was_passed_on_reaches_a_pod_here() {
    let Some(mut world) = world() else {
        return;
    };
    for port in 40_000..40_008 {
        let frame = passed_on(frame_v6::tcp((CLIENT_V6, port), (VIP_V6, 90), ACK, b"data"));
        assert_eq!(world.run(XDP, &frame).verdict, Verdict::Pass);
        let outcome = world.run(IN, &frame);
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert_eq!(frame_v6::ends(&outcome.frame).1, (POD_1_V6, 8080));
        frame_v6::assert_checksums(&outcome.frame);
    }
}

#[test]
fn frame_that_was_passed_on_for_nobody_here_is_dropped_not_sent_on() {
    let Some(mut world) = world() else {
        return;
    };
    let frame = passed_on(tcp((CLIENT, 40_000), (VIP, 91), ACK, b"data"));
    assert_eq!(world.run(XDP, &frame).verdict, Verdict::Pass);
    let outcome = world.run(IN, &frame);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoLocalBackend));

    // Neither does a service that is encapsulated here send on what came from a node.
    let frame = passed_on(frame::tcp((CLIENT, 40_000), (VIP, 82), ACK, b"data"));
    assert_eq!(world.run(XDP, &frame).verdict, Verdict::Pass);
    let outcome = world.run(IN, &frame);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoLocalBackend));
    assert_eq!(outcome.frame[NETWORK..], frame[NETWORK..]);
}

#[test]
fn frame_that_was_flooded_is_left_to_the_node_it_is_for() {
    let Some(mut world) = world() else {
        return;
    };
    world.set_uplink(1500);
    let frame = passed_on(tcp((CLIENT, 40_000), (VIP, 90), ACK, b"data"));
    for (destination, verdict) in [(OWN_MAC, Verdict::Redirect), (NODE_2_MAC, Verdict::Pass)] {
        let mut frame = frame.clone();
        frame[..6].copy_from_slice(&destination);
        let outcome = world.run(IN, &frame);
        assert_eq!(outcome.verdict, verdict, "{destination:x?}");
        if verdict == Verdict::Pass {
            assert_eq!(outcome.frame, frame);
        }
    }
}
