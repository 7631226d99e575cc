//! ICMP errors: those about what a VIP sent reach the pod that sent it, those of pods leave in the
//! VIP's name, and a packet that does not fit a tunnel is answered with one.

use std::net::{Ipv4Addr, Ipv6Addr};

use fairlead_dataplane_common::{Counter, DropReason, mac};
use packet_tests::frame::{
    self, ACK, NETWORK, NODE_MTU, OVERHEAD, OWN_MAC, ROUTER_MAC, SYN, icmp_error, tcp, udp, vxlan,
};
use packet_tests::{
    CLIENT, CLIENT_V6, NODE_1, NODE_2, POD_1, POD_1_V6, VIP, VIP_V6, Verdict, World, fragments,
    frame_v6,
};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";
const POD: &str = "tc_from_pod";
/// A router on the way to the client, whose errors they are.
const HOP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const HOP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1);

/// Too big, unreachable and time exceeded.
const KINDS: [(u8, u8); 3] = [(3, 4), (3, 1), (11, 0)];
const KINDS_V6: [(u8, u8); 3] = [(2, 0), (1, 0), (3, 0)];

/// What the VIP sent to the client from this port.
fn sent(port: u16) -> Vec<u8> {
    tcp((VIP, port), (CLIENT, 40_000), ACK, b"a long answer")
}

fn sent_v6(port: u16) -> Vec<u8> {
    frame_v6::tcp((VIP_V6, port), (CLIENT_V6, 40_000), ACK, b"a long answer")
}

fn error_v6(kind: (u8, u8), source: Ipv6Addr, destination: Ipv6Addr, about: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0, 0x05, 0x78];
    body.extend(&about[NETWORK..]);
    frame_v6::icmp(kind.0, kind.1, source, destination, &body)
}

/// Who the quoted packet is from and for.
fn quoted_ends(frame: &[u8]) -> (frame::Peer, frame::Peer) {
    frame::ends(&frame[28..])
}

fn quoted_ends_v6(frame: &[u8]) -> (frame_v6::Peer, frame_v6::Peer) {
    frame_v6::ends(&frame[48..])
}

#[test]
fn error_about_a_packet_of_a_remote_backend_is_sent_to_its_node() {
    let Some(mut world) = World::open() else {
        return;
    };
    for kind in KINDS {
        let error = icmp_error(kind, HOP, VIP, &sent(82), 28);
        let outcome = world.run(XDP, &error);
        assert_eq!(outcome.verdict, Verdict::Transmit, "{kind:?}");
        assert_eq!(outcome.frame[50..56], mac::of_backend(102), "{kind:?}");
        assert_eq!(outcome.frame[62..], error[12..], "{kind:?}");
    }
    for kind in KINDS_V6 {
        let error = error_v6(kind, HOP_V6, VIP_V6, &sent_v6(82));
        let outcome = world.run(XDP, &error);
        assert_eq!(outcome.verdict, Verdict::Transmit, "ICMPv6 {kind:?}");
        assert_eq!(outcome.frame[50..56], mac::of_backend(112), "{kind:?}");
    }
}

#[test]
fn error_follows_the_pick_of_the_flow_it_is_about() {
    let Some(mut world) = World::open() else {
        return;
    };
    let (mut transmitted, mut passed) = (0, 0);
    for port in 30_000..30_064 {
        let packet = world.run(XDP, &tcp((CLIENT, port), (VIP, 80), ACK, b""));
        let about = tcp((VIP, 80), (CLIENT, port), ACK, b"answer");
        let error = world.run(XDP, &icmp_error((3, 4), HOP, VIP, &about, 28));
        assert_eq!(packet.verdict, error.verdict);
        if packet.verdict == Verdict::Transmit {
            assert_eq!(packet.frame[50..56], error.frame[50..56]);
            transmitted += 1;
        } else {
            passed += 1;
        }
    }
    assert!(transmitted > 0 && passed > 0, "{transmitted} and {passed}");
}

#[test]
fn error_reaches_the_pod_translated_inside_and_out() {
    let Some(mut world) = World::open() else {
        return;
    };
    for kind in KINDS {
        for quoted in [28, 53] {
            let error = icmp_error(kind, HOP, VIP, &sent(81), quoted);
            assert_eq!(world.run(XDP, &error).verdict, Verdict::Pass);
            for frame in [
                error.clone(),
                vxlan(NODE_2, NODE_1, 0, mac::of_backend(101), &error),
            ] {
                let out = world.run(IN, &frame);
                assert_eq!(out.verdict, Verdict::Redirect, "{kind:?}");
                let ((from, _), (to, _)) = frame::ends(&out.frame);
                assert_eq!((from, to), (HOP, POD_1), "{kind:?}");
                let ends = ((POD_1, 8080), (CLIENT, 40_000));
                assert_eq!(quoted_ends(&out.frame), ends, "{kind:?}");
                frame::assert_checksums(&out.frame);
                let inner = &out.frame[42..62];
                assert_eq!(fairlead_dataplane_common::checksum::sum(inner), 0xffff);
            }
        }
    }
    for kind in KINDS_V6 {
        let error = error_v6(kind, HOP_V6, VIP_V6, &sent_v6(81));
        assert_eq!(world.run(XDP, &error).verdict, Verdict::Pass);
        for frame in [
            error.clone(),
            vxlan(NODE_2, NODE_1, 0, mac::of_backend(111), &error),
        ] {
            let out = world.run(IN, &frame);
            assert_eq!(out.verdict, Verdict::Redirect, "ICMPv6 {kind:?}");
            let ((from, _), (to, _)) = frame_v6::ends(&out.frame);
            assert_eq!((from, to), (HOP_V6, POD_1_V6), "ICMPv6 {kind:?}");
            let ends = ((POD_1_V6, 8080), (CLIENT_V6, 40_000));
            assert_eq!(quoted_ends_v6(&out.frame), ends, "ICMPv6 {kind:?}");
            frame_v6::assert_checksums(&out.frame);
        }
    }
}

#[test]
fn error_of_a_pod_reaches_the_client_in_the_vips_name() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.run(IN, &udp((CLIENT, 40_000), (VIP, 54), b"query"));
    let about = udp((CLIENT, 40_000), (POD_1, 8080), b"query");
    let out = world.run(POD, &icmp_error((3, 3), POD_1, CLIENT, &about, 28));
    assert_eq!(out.verdict, Verdict::Pass);
    let ((from, _), (to, _)) = frame::ends(&out.frame);
    assert_eq!((from, to), (VIP, CLIENT));
    assert_eq!(quoted_ends(&out.frame), ((CLIENT, 40_000), (VIP, 54)));
    frame::assert_checksums(&out.frame);

    world.run(
        IN,
        &frame_v6::udp((CLIENT_V6, 40_000), (VIP_V6, 54), b"query"),
    );
    let about = frame_v6::udp((CLIENT_V6, 40_000), (POD_1_V6, 8080), b"query");
    let out = world.run(POD, &error_v6((1, 4), POD_1_V6, CLIENT_V6, &about));
    assert_eq!(out.verdict, Verdict::Pass);
    let ((from, _), (to, _)) = frame_v6::ends(&out.frame);
    assert_eq!((from, to), (VIP_V6, CLIENT_V6));
    assert_eq!(
        quoted_ends_v6(&out.frame),
        ((CLIENT_V6, 40_000), (VIP_V6, 54))
    );
    frame_v6::assert_checksums(&out.frame);
}

#[test]
fn error_about_no_packet_of_a_service_is_dropped() {
    let Some(mut world) = World::open() else {
        return;
    };
    let cases = [
        ("from a closed port", sent(4444)),
        (
            "from another address",
            tcp((NODE_2, 82), (CLIENT, 1), SYN, b"12345678"),
        ),
        (
            "of another protocol",
            frame::ipv4(VIP, CLIENT, 47, &[0; 20]),
        ),
    ];
    for (description, about) in cases {
        let error = icmp_error((3, 4), HOP, VIP, &about, 28);
        for program in [XDP, IN] {
            let outcome = world.run(program, &error);
            let verdict = Verdict::Drop(DropReason::ForeignError);
            assert_eq!(outcome.verdict, verdict, "{description}, {program}");
        }
    }
}

#[test]
fn packet_too_big_for_the_tunnel_is_answered_with_what_would_fit() {
    let Some(mut world) = World::open() else {
        return;
    };
    let fits = u32::from(NODE_MTU) - OVERHEAD as u32;
    let payload = vec![0x5a; fits as usize - 40];
    let exact = tcp((CLIENT, 40_000), (VIP, 82), ACK, &payload);
    let out = world.run(XDP, &exact);
    assert_eq!(out.frame.len(), exact.len() + OVERHEAD, "what fits is sent");

    let big = tcp(
        (CLIENT, 40_000),
        (VIP, 82),
        ACK,
        &[&payload[..], b"x"].concat(),
    );
    let out = world.run(XDP, &big);
    assert_eq!(out.verdict, Verdict::Transmit);
    let mut expected = icmp_error((3, 4), VIP, CLIENT, &big, 28);
    expected[..6].copy_from_slice(&ROUTER_MAC);
    expected[6..12].copy_from_slice(&OWN_MAC);
    assert_eq!(out.frame.len(), expected.len());
    assert_eq!(out.frame[..14], expected[..14]);
    assert_eq!(
        out.frame[26..36],
        expected[26..36],
        "addresses, type and code"
    );
    assert_eq!(out.frame[38..42], fits.to_be_bytes());
    assert_eq!(out.frame[42..], expected[42..], "the quote");
    frame::assert_checksums(&out.frame);

    let mut fragmentable = big.clone();
    fragmentable[NETWORK + 6] = 0;
    frame::mend_ip(&mut fragmentable);
    let out = world.run(XDP, &fragmentable);
    assert_eq!(out.verdict, Verdict::Transmit, "its sender may fragment");
    assert_eq!(out.frame[34..36], [3, 4]);

    let data = vec![0x5a; 4_000];
    let datagram = udp((CLIENT, 40_000), (VIP, 53), &data);
    let fragments = fragments::split_at(1_480, &datagram, 7);
    let verdicts = fragments
        .iter()
        .map(|fragment| world.run(XDP, fragment).verdict);
    assert_eq!(
        verdicts.collect::<Vec<_>>(),
        [
            Verdict::Transmit,
            Verdict::Drop(DropReason::TooBig),
            Verdict::Transmit
        ],
        "the first is answered, and the last fits"
    );

    let big = frame_v6::tcp((CLIENT_V6, 40_000), (VIP_V6, 82), ACK, &payload);
    let out = world.run(XDP, &big);
    assert_eq!(out.verdict, Verdict::Transmit);
    let ((from, _), (to, _)) = frame_v6::ends(&out.frame);
    assert_eq!((from, to), (VIP_V6, CLIENT_V6));
    assert_eq!(out.frame[54..56], [2, 0]);
    assert_eq!(out.frame[58..62], fits.to_be_bytes());
    assert_eq!(out.frame[62..], big[NETWORK..NETWORK + 56], "the quote");
    frame_v6::assert_checksums(&out.frame);
    assert_eq!(world.counter(Counter::TooBigAnswered), 4);
}

#[test]
fn packet_too_big_that_xdp_left_to_the_stack_is_answered_the_same() {
    let Some(mut world) = World::open() else {
        return;
    };
    let fits = u32::from(NODE_MTU) - OVERHEAD as u32;
    let payload = vec![0x5a; fits as usize - 40];
    let more = [&payload[..], b"x"].concat();
    // The neighbour of port 83's node is not known; of port 82's it is, by another interface.
    world.set_interface(1, 7);
    for port in [82, 83] {
        let exact = tcp((CLIENT, 40_000), (VIP, port), ACK, &payload);
        assert_eq!(world.run(XDP, &exact).verdict, Verdict::Pass);
        let out = world.run(IN, &exact);
        assert_eq!(out.frame.len(), exact.len() + OVERHEAD, "what fits is sent");

        let big = tcp((CLIENT, 40_000), (VIP, port), ACK, &more);
        assert_eq!(world.run(XDP, &big).verdict, Verdict::Pass);
        let out = world.run(IN, &big);
        assert_eq!(out.verdict, Verdict::Redirect);
        let expected = icmp_error((3, 4), VIP, CLIENT, &big, 40);
        assert_eq!(out.frame.len(), expected.len());
        assert_eq!(out.frame[..6], ROUTER_MAC);
        assert_eq!(out.frame[6..12], OWN_MAC);
        assert_eq!(out.frame[12..18], expected[12..18], "type and length");
        assert_eq!(out.frame[26..36], expected[26..36], "whose, and what");
        assert_eq!(out.frame[38..42], fits.to_be_bytes());
        assert_eq!(out.frame[42..], expected[42..], "the quote");
        frame::assert_checksums(&out.frame);

        let big = frame_v6::tcp((CLIENT_V6, 40_000), (VIP_V6, port), ACK, &payload);
        assert_eq!(world.run(XDP, &big).verdict, Verdict::Pass);
        let out = world.run(IN, &big);
        assert_eq!(out.verdict, Verdict::Redirect);
        let ((from, _), (to, _)) = frame_v6::ends(&out.frame);
        assert_eq!((from, to), (VIP_V6, CLIENT_V6));
        assert_eq!(out.frame[..6], ROUTER_MAC);
        assert_eq!(out.frame[12..14], [0x86, 0xdd]);
        assert_eq!(out.frame[54..56], [2, 0]);
        assert_eq!(out.frame[58..62], fits.to_be_bytes());
        assert_eq!(out.frame[62..], big[NETWORK..NETWORK + 60], "the quote");
        frame_v6::assert_checksums(&out.frame);
    }

    let datagram = udp((CLIENT, 40_000), (VIP, 53), &[0x5a; 4_000]);
    let fragments = fragments::split_at(1_480, &datagram, 7);
    let verdicts = fragments
        .iter()
        .map(|fragment| world.run(IN, fragment).verdict);
    assert_eq!(
        verdicts.collect::<Vec<_>>(),
        [
            Verdict::Redirect,
            Verdict::Drop(DropReason::TooBig),
            Verdict::Redirect
        ],
        "the first is answered, and the last fits"
    );
    let big = tcp((CLIENT, 40_000), (VIP, 82), ACK, &more);
    let about = icmp_error(
        (3, 4),
        HOP,
        VIP,
        &tcp((VIP, 82), (CLIENT, 1), ACK, &big),
        1_470,
    );
    let out = world.run(IN, &about);
    assert_eq!(
        out.verdict,
        Verdict::Drop(DropReason::TooBig),
        "no error about one"
    );
    assert_eq!(world.counter(Counter::TooBigAnswered), 5);
}
