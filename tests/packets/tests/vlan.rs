//! VLAN tags in XDP: a tagged frame meets what an untagged one would, and keeps its tags unless it is
//! sent on: the way to a node or a server has none, or is the stack's to find.

use std::net::Ipv4Addr;

use fairlead_dataplane_common::{DropReason, SERVICE_DR, protocol};
use packet_tests::frame::{self, ACK, OWN_MAC, RST, echo, tcp};
use packet_tests::{CLIENT, CLIENT_V6, NODE_1, POD_1, VIP, VIP_V6, Verdict, World, frame_v6};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";

/// VLAN 100; VLAN 100 in service VLAN 7; VLAN 100 in VLAN 7, with a priority.
const TAGS: [&[u8]; 3] = [
    &[0x81, 0, 0, 100],
    &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 100],
    &[0x81, 0, 0xe0, 7, 0x81, 0, 0, 100],
];

fn tagged(frame: &[u8], tags: &[u8]) -> Vec<u8> {
    [&frame[..12], tags, &frame[12..]].concat()
}

#[test]
fn tagged_frame_is_treated_as_if_it_had_no_tag_and_keeps_it() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.set_adjacent(1, true);
    world.allow_dr(2 * 4, &[]);
    world.announce(VIP.into());
    world.set_uplink(1500);
    let big = vec![0x5a; 1460];
    let frames = [
        ("for a pod here", tcp((CLIENT, 1), (VIP, 81), ACK, b"data")),
        ("for the node", tcp((CLIENT, 1), (NODE_1, 22), ACK, b"data")),
        ("an echo request", echo(8, CLIENT, VIP, 7)),
        (
            "for a service without backends",
            tcp((CLIENT, 1), (VIP, 84), ACK, b"data"),
        ),
        ("too big", tcp((CLIENT, 1), (VIP, 82), ACK, &big)),
        (
            "an ARP request",
            packet_tests::frame::arp(1, OWN_MAC, CLIENT, VIP),
        ),
        ("no IP", {
            let mut frame = vec![0; 60];
            frame[12..14].copy_from_slice(&[0x88, 0xcc]);
            frame
        }),
    ];
    for (description, frame) in frames {
        let plain = world.run(XDP, &frame);
        for tags in TAGS {
            let outcome = world.run(XDP, &tagged(&frame, tags));
            assert_eq!(outcome.verdict, plain.verdict, "{description}, {tags:x?}");
            assert_eq!(
                outcome.frame,
                tagged(&plain.frame, tags),
                "{description}, {tags:x?}"
            );
        }
    }
}

#[test]
fn tagged_frame_that_is_sent_on_leaves_without_its_tags() {
    let Some(mut world) = World::open() else {
        return;
    };
    let passed_on = world.add_service(protocol::TCP, 7000, &[2]);
    world.allow_dr(passed_on, &[]);
    world.set_adjacent(1, true);
    let server = world.add_service(protocol::TCP, 7001, &[21]);
    let address = Ipv4Addr::new(198, 18, 0, 200);
    world.add_server(21, (address, 7001).into(), Some([0x02, 0, 0, 0, 0, 0xc8]));
    let frames = [
        ("encapsulated", tcp((CLIENT, 1), (VIP, 82), ACK, b"data")),
        (
            "encapsulated, IPv6",
            frame_v6::tcp((CLIENT_V6, 1), (VIP_V6, 82), ACK, b"data"),
        ),
        ("passed on", tcp((CLIENT, 1), (VIP, 7000), ACK, b"data")),
        ("IP in IP", tcp((CLIENT, 1), (VIP, 7001), ACK, b"data")),
        (
            "as it is to a server",
            tcp((CLIENT, 1), (VIP, 7001), ACK, b"data"),
        ),
    ];
    for (description, frame) in frames {
        if description.starts_with("as it is") {
            world.set_flags(server, SERVICE_DR);
        }
        let plain = world.run(XDP, &frame);
        assert_eq!(plain.verdict, Verdict::Transmit, "{description}");
        for tags in TAGS {
            let outcome = world.run(XDP, &tagged(&frame, tags));
            assert_eq!(outcome, plain, "{description}, {tags:x?}");
        }
    }
}

#[test]
fn tagged_frame_that_is_dropped_is_counted_by_its_reason() {
    let Some(mut world) = World::open() else {
        return;
    };
    let mut cut = tcp((CLIENT, 1), (VIP, 82), ACK, b"data");
    cut.truncate(40);
    let frames = [
        (DropReason::Malformed, cut),
        (DropReason::NoBackend, tcp((CLIENT, 1), (VIP, 84), RST, b"")),
    ];
    for (reason, frame) in frames {
        for tags in TAGS {
            let outcome = world.run(XDP, &tagged(&frame, tags));
            assert_eq!(outcome.verdict, Verdict::Drop(reason));
        }
    }
}

#[test]
fn third_tag_and_a_frame_that_ends_in_its_tags_pass_as_they_are() {
    let Some(mut world) = World::open() else {
        return;
    };
    let frame = tcp((CLIENT, 1), (VIP, 82), ACK, b"data");
    let third = tagged(&tagged(&frame, TAGS[0]), TAGS[1]);
    let mut cut = tagged(&frame, TAGS[1]);
    cut.truncate(16);
    for frame in [third, cut] {
        let outcome = world.run(XDP, &frame);
        assert_eq!(outcome.verdict, Verdict::Pass);
        assert_eq!(outcome.frame, frame);
    }
}

#[test]
fn pod_gets_a_tagged_packet_without_its_tags() {
    let Some(mut world) = World::open() else {
        return;
    };
    // The kernel takes the outer tag off before TC sees the packet; `BPF_PROG_TEST_RUN` does not, so
    // that one tag here plays the second there.
    let packet = tcp((CLIENT, 1), (VIP, 81), ACK, b"data");
    for tags in TAGS {
        let outcome = world.run(IN, &tagged(&packet, tags));
        assert_eq!(outcome.verdict, Verdict::Redirect, "{tags:x?}");
        assert_eq!(frame::ends(&outcome.frame), ((CLIENT, 1), (POD_1, 8080)));
        assert_eq!(outcome.frame.len(), packet.len());
    }
}
