//! The maximum segment size in a pod's SYN-ACK in a VIP's name: lowered to what fits every way
//! through the cluster, and never raised.

use fairlead_dataplane_common::Counter;
use packet_tests::frame::{self, ACK, SYN};
use packet_tests::{CLIENT, CLIENT_V6, POD_1, POD_1_V6, VIP, VIP_V6, Verdict, World, frame_v6};

const IN: &str = "tc_uplink_in";
const POD: &str = "tc_from_pod";
const FIN: u8 = 0x01;

/// What fits 1500 bytes less VXLAN over IPv4 (50) and the headers of IP (20 or 40) and TCP (20).
const FITS: u16 = 1410;
const FITS_V6: u16 = 1390;

/// The option with this value.
fn size(value: u16) -> Vec<u8> {
    [&[2, 4][..], &value.to_be_bytes()].concat()
}

/// Options before and behind the one with `value`; the offset of the value is odd in some.
fn arrangements(value: u16) -> Vec<(&'static str, Vec<u8>)> {
    let option = size(value);
    let timestamps = [8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    vec![
        ("alone", option.clone()),
        (
            "first, as Linux has it",
            [&option[..], &[4, 2], &timestamps, &[1, 3, 3, 7]].concat(),
        ),
        (
            "behind one padding",
            [&[1][..], &option, &[1, 1, 1]].concat(),
        ),
        (
            "behind options",
            [&[4, 2][..], &timestamps, &[3, 3, 7], &option, &[0]].concat(),
        ),
        ("last of forty bytes", [&[1; 36][..], &option].concat()),
    ]
}

fn world(mtu: Option<u32>) -> Option<World> {
    let mut world = World::open()?;
    if let Some(mtu) = mtu {
        world.set_uplink(mtu);
    }
    let syn = frame::tcp((CLIENT, 40_000), (VIP, 81), SYN, b"");
    assert_eq!(world.run(IN, &syn).verdict, Verdict::Redirect);
    let syn = frame_v6::tcp((CLIENT_V6, 40_000), (VIP_V6, 81), SYN, b"");
    assert_eq!(world.run(IN, &syn).verdict, Verdict::Redirect);
    Some(world)
}

fn answer(flags: u8, options: &[u8]) -> Vec<u8> {
    frame::tcp_with_options((POD_1, 8080), (CLIENT, 40_000), flags, options)
}

fn answer_v6(flags: u8, options: &[u8]) -> Vec<u8> {
    frame_v6::tcp_with_options((POD_1_V6, 8080), (CLIENT_V6, 40_000), flags, options)
}

#[test]
fn larger_segment_size_is_lowered_wherever_it_stands() {
    let Some(mut world) = world(Some(1500)) else {
        return;
    };
    let found = arrangements(8960);
    for (index, (description, options)) in found.iter().enumerate() {
        if *description == "last of forty bytes" {
            continue;
        }
        let expected = &arrangements(FITS)[index].1;
        let outcome = world.run(POD, &answer(SYN | ACK, options));
        assert_eq!(outcome.frame[54..], expected[..], "{description}");
        assert_eq!(frame::ends(&outcome.frame).0, (VIP, 81));
        frame::assert_checksums(&outcome.frame);

        let expected = &arrangements(FITS_V6)[index].1;
        let outcome = world.run(POD, &answer_v6(SYN | ACK, options));
        assert_eq!(outcome.frame[74..], expected[..], "{description}");
        assert_eq!(frame_v6::ends(&outcome.frame).0, (VIP_V6, 81));
        frame_v6::assert_checksums(&outcome.frame);
    }
    assert_eq!(world.counter(Counter::MssClamped), 8);
}

#[test]
fn segment_size_that_fits_is_left_as_it_is() {
    let Some(mut world) = world(Some(1500)) else {
        return;
    };
    for value in [0, 536, FITS] {
        let outcome = world.run(POD, &answer(SYN | ACK, &size(value)));
        assert_eq!(outcome.frame[54..], size(value));
        frame::assert_checksums(&outcome.frame);
    }
    for value in [536, FITS_V6] {
        let outcome = world.run(POD, &answer_v6(SYN | ACK, &size(value)));
        assert_eq!(outcome.frame[74..], size(value));
        frame_v6::assert_checksums(&outcome.frame);
    }
    assert_eq!(world.counter(Counter::MssClamped), 0);
}

#[test]
fn what_is_no_announcement_is_left_as_it_is() {
    let Some(mut world) = world(Some(1500)) else {
        return;
    };
    let large = size(8960);
    let cases = [
        ("no SYN", ACK, large.clone()),
        ("the end", FIN | ACK, large.clone()),
        ("no options", SYN | ACK, vec![]),
        (
            "behind the last option",
            SYN | ACK,
            [&[0; 4][..], &large].concat(),
        ),
        ("a wrong length", SYN | ACK, vec![2, 3, 0x23, 0]),
        (
            "an option without length",
            SYN | ACK,
            [&[8, 0, 1, 1][..], &large].concat(),
        ),
        (
            "an option of length 1",
            SYN | ACK,
            [&[8, 1, 1, 1][..], &large].concat(),
        ),
        ("an option beyond the header", SYN | ACK, vec![8, 200, 2, 4]),
        (
            "behind more paddings than are looked at",
            SYN | ACK,
            [&[1; 36][..], &large].concat(),
        ),
    ];
    for (description, flags, options) in cases {
        let outcome = world.run(POD, &answer(flags, &options));
        assert_eq!(outcome.verdict, Verdict::Pass, "{description}");
        assert_eq!(outcome.frame[54..], options[..], "{description}");
        frame::assert_checksums(&outcome.frame);
    }
    assert_eq!(world.counter(Counter::MssClamped), 0);
}

#[test]
fn unknown_mtu_and_traffic_of_the_pods_own_change_nothing() {
    let Some(mut world) = world(None) else { return };
    let outcome = world.run(POD, &answer(SYN | ACK, &size(8960)));
    assert_eq!(outcome.frame[54..], size(8960));
    world.set_uplink(1500);
    let own = frame::tcp_with_options((POD_1, 9), (CLIENT, 9), SYN, &size(8960));
    let outcome = world.run(POD, &own);
    assert_eq!(outcome.frame, own);
}
