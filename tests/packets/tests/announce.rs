//! ARP and neighbour discovery for VIPs: answered for those that this node announces, and for no
//! others; who else announces one is noted.

use std::net::{Ipv4Addr, Ipv6Addr};

use fairlead_dataplane_common::{Counter, protocol};
use packet_tests::frame::{NETWORK, OWN_MAC, arp};
use packet_tests::{CLIENT, CLIENT_V6, NODE_1, VIP, VIP_V6, Verdict, World, frame_v6};

const XDP: &str = "xdp_ingress";
const ASKER_MAC: [u8; 6] = [0x02, 0, 0, 0, 2, 0x10];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_OPTION: [u8; 8] = [1, 1, 0x02, 0, 0, 0, 2, 0x10];
/// RFC 3971 §5.3.2, as hosts send it to detect their own probes (RFC 7527).
const NONCE_OPTION: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];

fn world() -> Option<World> {
    let mut world = World::open()?;
    world.set_uplink(1500);
    world.announce(VIP.into());
    world.announce(VIP_V6.into());
    Some(world)
}

/// The group that solicitations for `target` go to (RFC 4291 §2.7.1).
fn group_of(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    let word = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, word(0xff, a), word(b, c))
}

/// A solicitation or advertisement about `target`.
fn neighbour(
    kind: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    options: &[u8],
) -> Vec<u8> {
    let body = [&[0; 4][..], &target.octets(), options].concat();
    let mut frame = frame_v6::icmp(kind, 0, source, destination, &body);
    frame[6..12].copy_from_slice(&ASKER_MAC);
    frame[NETWORK + 7] = 255;
    frame
}

fn solicitation(source: Ipv6Addr, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    neighbour(SOLICITATION, source, group_of(target), target, options)
}

#[test]
fn request_for_a_vip_is_answered_with_the_uplinks_address() {
    let Some(mut world) = world() else { return };
    let cases = [
        ("a request", CLIENT),
        ("a probe (RFC 5227)", Ipv4Addr::UNSPECIFIED),
    ];
    for (description, sender) in cases {
        let outcome = world.run(XDP, &arp(REQUEST, ASKER_MAC, sender, VIP));
        assert_eq!(outcome.verdict, Verdict::Transmit, "{description}");
        let mut expected = arp(REPLY, OWN_MAC, VIP, sender);
        expected[..6].copy_from_slice(&ASKER_MAC);
        expected[32..38].copy_from_slice(&ASKER_MAC);
        assert_eq!(outcome.frame, expected, "{description}");
    }
    assert_eq!(world.counter(Counter::NeighbourAnswered), 2);
    assert_eq!(world.conflict(VIP.into()), None);
}

#[test]
fn other_arp_passes_as_it_is() {
    let Some(mut world) = world() else { return };
    let mut other_protocol = arp(REQUEST, ASKER_MAC, CLIENT, VIP);
    other_protocol[16..18].copy_from_slice(&[0x80, 0x9b]);
    let mut other_operation = arp(REQUEST, ASKER_MAC, CLIENT, VIP);
    other_operation[21] = 3;
    let mut cut = arp(REQUEST, ASKER_MAC, CLIENT, VIP);
    cut.truncate(41);
    let cases = [
        ("for the node", arp(REQUEST, ASKER_MAC, CLIENT, NODE_1)),
        ("a reply", arp(REPLY, ASKER_MAC, CLIENT, VIP)),
        ("not for IPv4", other_protocol),
        ("of another operation", other_operation),
        ("cut short", cut),
    ];
    for (description, frame) in cases {
        let outcome = world.run(XDP, &frame);
        assert_eq!(outcome.verdict, Verdict::Pass, "{description}");
        assert_eq!(outcome.frame, frame, "{description}");
    }
    assert_eq!(world.counter(Counter::NeighbourAnswered), 0);
}

#[test]
fn vip_that_another_node_announces_is_not_answered_for() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.set_uplink(1500);
    let frames = [
        arp(REQUEST, ASKER_MAC, CLIENT, VIP),
        solicitation(CLIENT_V6, VIP_V6, &SOURCE_OPTION),
        arp(REPLY, ASKER_MAC, VIP, VIP),
    ];
    for frame in frames {
        let outcome = world.run(XDP, &frame);
        assert_eq!(outcome.verdict, Verdict::Pass);
        assert_eq!(outcome.frame, frame);
    }
    assert_eq!(world.conflict(VIP.into()), None);
}

#[test]
fn solicitation_for_a_vip_is_answered_with_the_uplinks_address() {
    let Some(mut world) = world() else { return };
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let unspecified = Ipv6Addr::UNSPECIFIED;
    let both = [SOURCE_OPTION, NONCE_OPTION].concat();
    let cases = [
        ("with the sender's address", CLIENT_V6, &SOURCE_OPTION[..]),
        ("without", CLIENT_V6, &[]),
        ("with a nonce too", CLIENT_V6, &both),
        ("of a host that looks for doubles", unspecified, &[]),
        ("of one that knows its own", unspecified, &NONCE_OPTION),
    ];
    for (description, source, options) in cases {
        let outcome = world.run(XDP, &solicitation(source, VIP_V6, options));
        assert_eq!(outcome.verdict, Verdict::Transmit, "{description}");
        let (destination, mac, flags) = if source.is_unspecified() {
            (all_nodes, [0x33, 0x33, 0, 0, 0, 1], 0x20)
        } else {
            (source, ASKER_MAC, 0x60)
        };
        let option = [&[2, 1][..], &OWN_MAC].concat();
        let body = [&[flags, 0, 0, 0][..], &VIP_V6.octets(), &option].concat();
        let mut expected = frame_v6::icmp(ADVERTISEMENT, 0, VIP_V6, destination, &body);
        expected[..6].copy_from_slice(&mac);
        expected[6..12].copy_from_slice(&OWN_MAC);
        expected[NETWORK + 7] = 255;
        assert_eq!(outcome.frame, expected, "{description}");
    }
    assert_eq!(
        world.counter(Counter::NeighbourAnswered),
        cases.len() as u64
    );
    // Whether the VIP is still there is asked of the VIP itself (RFC 4861 §7.3.3).
    let unicast = neighbour(SOLICITATION, CLIENT_V6, VIP_V6, VIP_V6, &[]);
    assert_eq!(world.run(XDP, &unicast).verdict, Verdict::Transmit);
}

#[test]
fn solicitation_that_a_host_would_discard_is_left_to_the_stack() {
    let Some(mut world) = world() else { return };
    let valid = solicitation(CLIENT_V6, VIP_V6, &SOURCE_OPTION);
    let changed = |at: usize, value| {
        let mut frame = valid.clone();
        frame[at] = value;
        frame
    };
    let unspecified = Ipv6Addr::UNSPECIFIED;
    let endless = [1, 0, 0, 0, 0, 0, 0, 0];
    let overlong = [1, 3, 0, 0, 0, 0, 0, 0];
    let cases = [
        ("from beyond the link", changed(NETWORK + 7, 254)),
        ("with a wrong checksum", changed(56, valid[56] ^ 1)),
        (
            "for another address",
            solicitation(CLIENT_V6, CLIENT_V6, &SOURCE_OPTION),
        ),
        (
            "from nowhere, with an address",
            solicitation(unspecified, VIP_V6, &SOURCE_OPTION),
        ),
        (
            "from nowhere, to the VIP itself",
            neighbour(SOLICITATION, unspecified, VIP_V6, VIP_V6, &[]),
        ),
        (
            "with an option of no length",
            solicitation(CLIENT_V6, VIP_V6, &endless),
        ),
        (
            "with an option that does not end",
            solicitation(CLIENT_V6, VIP_V6, &overlong),
        ),
        (
            "with half an option",
            solicitation(CLIENT_V6, VIP_V6, &[1, 1, 0, 0]),
        ),
        (
            "of a router",
            neighbour(133, CLIENT_V6, VIP_V6, VIP_V6, &SOURCE_OPTION),
        ),
        (
            "with more options than anyone sends",
            solicitation(CLIENT_V6, VIP_V6, &[SOURCE_OPTION; 9].concat()),
        ),
        (
            "cut short",
            frame_v6::ipv6(CLIENT_V6, group_of(VIP_V6), protocol::ICMPV6, &[135; 8]),
        ),
    ];
    for (description, frame) in cases {
        let outcome = world.run(XDP, &frame);
        assert_eq!(outcome.verdict, Verdict::Pass, "{description}");
        assert_eq!(outcome.frame, frame, "{description}");
    }
    assert_eq!(world.counter(Counter::NeighbourAnswered), 0);
}

#[test]
fn somebody_else_who_announces_a_vip_is_noted() {
    let Some(mut world) = world() else { return };
    let option = [&[2, 1][..], &ASKER_MAC].concat();
    let own = [&[2, 1][..], &OWN_MAC].concat();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let advertisement = |option: &[u8]| neighbour(ADVERTISEMENT, VIP_V6, all_nodes, VIP_V6, option);

    for frame in [
        arp(REQUEST, OWN_MAC, VIP, VIP),
        arp(REQUEST, ASKER_MAC, CLIENT, NODE_1),
        advertisement(&own),
        advertisement(&[]),
    ] {
        assert_eq!(world.run(XDP, &frame).verdict, Verdict::Pass);
    }
    assert_eq!(world.conflict(VIP.into()), None);
    assert_eq!(world.conflict(VIP_V6.into()), None);

    for frame in [
        arp(REQUEST, ASKER_MAC, VIP, VIP),
        arp(REPLY, ASKER_MAC, VIP, VIP),
        arp(REQUEST, ASKER_MAC, VIP, CLIENT),
    ] {
        assert_eq!(world.run(XDP, &frame).verdict, Verdict::Pass);
        let conflict = world.conflict(VIP.into()).expect("noted");
        assert_eq!(conflict.mac, ASKER_MAC);
        assert_ne!(conflict.seen_jiffies, 0);
    }
    assert_eq!(
        world.run(XDP, &advertisement(&option)).verdict,
        Verdict::Pass
    );
    let conflict = world.conflict(VIP_V6.into()).expect("noted");
    assert_eq!(conflict.mac, ASKER_MAC);
    assert_eq!(world.counter(Counter::NeighbourAnswered), 0);
}
