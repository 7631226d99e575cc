//! IPv4 options of what is for a VIP are taken off by the stack's side, whatever becomes of the packet.

use fairlead_dataplane_common::{DropReason, SERVICE_GUE, SERVICE_NAT, checksum, mac, protocol};
use packet_tests::frame::{self, ACK, NETWORK, echo, icmp_error, mend_ip, tcp, udp};
use packet_tests::{CLIENT, NODE_1, VIP, Verdict, World};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";
/// The option that says nothing.
const NO_OPERATION: u8 = 1;
const SLOT: u32 = 21;

/// The packet with so many words of options before its payload.
fn with_options(plain: &[u8], words: usize) -> Vec<u8> {
    let header = NETWORK + 20 + 4 * words;
    let mut frame = plain[..NETWORK + 20].to_vec();
    frame.resize(header, NO_OPERATION);
    frame.extend(&plain[NETWORK + 20..]);
    frame[NETWORK] = 0x45 + words as u8;
    let length = (frame.len() - NETWORK) as u16;
    frame[NETWORK + 2..NETWORK + 4].copy_from_slice(&length.to_be_bytes());
    frame[NETWORK + 10..NETWORK + 12].fill(0);
    let check = !checksum::sum(&frame[NETWORK..header]);
    frame[NETWORK + 10..NETWORK + 12].copy_from_slice(&check.to_ne_bytes());
    frame
}

/// A world with real servers behind ports 7000 (IP in IP), 7001 (GUE) and 7002 (nat).
fn world() -> Option<World> {
    let mut world = World::open()?;
    let server = ([198, 18, 0, 200], 9000).into();
    world.add_server(SLOT, server, None);
    for (port, flags) in [(7000, 0), (7001, SERVICE_GUE), (7002, SERVICE_NAT)] {
        let slot = world.add_service(protocol::TCP, port, &[SLOT]);
        world.set_flags(slot, flags);
    }
    Some(world)
}

#[test]
fn packet_with_options_goes_the_way_of_one_without() {
    let Some(mut world) = world() else {
        return;
    };
    let segment = |port: u16| tcp((CLIENT, 1), (VIP, port), ACK, b"data");
    let about = tcp((VIP, 82), (CLIENT, 40_000), ACK, b"answer");
    let fragment = |flags_and_offset: [u8; 2]| {
        let mut frame = udp((CLIENT, 40_000), (VIP, 53), &[7; 64]);
        frame[NETWORK + 6..NETWORK + 8].copy_from_slice(&flags_and_offset);
        mend_ip(&mut frame);
        frame
    };
    let packets = [
        ("for a pod here", segment(81)),
        (
            "a datagram for a pod here",
            udp((CLIENT, 1), (VIP, 54), b""),
        ),
        ("for another node", segment(82)),
        ("for a server by IP in IP", segment(7000)),
        ("for a server by GUE", segment(7001)),
        ("for a server by nat", segment(7002)),
        ("for nobody", segment(84)),
        ("for a closed port", segment(4444)),
        ("an error", icmp_error((3, 4), NODE_1, VIP, &about, 28)),
        ("a first fragment", fragment([0x20, 0])),
        ("a later fragment", fragment([0, 9])),
        ("an echo reply", echo(0, CLIENT, VIP, 7)),
    ];
    for (description, plain) in packets {
        for words in [1, 10] {
            let what = format!("{description}, {words} words");
            let frame = with_options(&plain, words);
            let handed_up = world.run(XDP, &frame);
            assert_eq!(handed_up.verdict, Verdict::Pass, "{what}");
            assert_eq!(handed_up.frame, frame, "{what}");
            let expected = world.run(IN, &plain);
            let outcome = world.run(IN, &frame);
            assert_eq!(outcome.verdict, expected.verdict, "{what}");
            if !matches!(expected.verdict, Verdict::Drop(_)) {
                assert_eq!(outcome.frame, expected.frame, "{what}");
            }
        }
    }
}

#[test]
fn packet_with_options_names_its_backend_and_keeps_its_checksums() {
    let Some(mut world) = world() else {
        return;
    };
    let plain = tcp((CLIENT, 1), (VIP, 82), ACK, b"data");
    let outcome = world.run(IN, &with_options(&plain, 3));
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(outcome.frame[50..56], mac::of_backend(102));
    assert_eq!(outcome.frame[64..], plain[NETWORK..]);
    frame::assert_checksums(&outcome.frame[50..]);
}

#[test]
fn options_that_are_longer_than_their_packet_are_malformed() {
    let Some(mut world) = world() else {
        return;
    };
    let mut cut = with_options(&udp((CLIENT, 1), (VIP, 53), b""), 10);
    cut.truncate(NETWORK + 56);
    cut[NETWORK + 2..NETWORK + 4].copy_from_slice(&56_u16.to_be_bytes());
    for program in [XDP, IN] {
        let outcome = world.run(program, &cut);
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::Malformed));
    }
    // All options, and nothing behind them.
    let bare = with_options(&frame::ipv4(CLIENT, VIP, protocol::UDP, b""), 10);
    assert_eq!(world.run(XDP, &bare).verdict, Verdict::Pass);
    let outcome = world.run(IN, &bare);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::Malformed));
}
