//! Fragments: all of a packet go the way of the first, balanced, delivered, answered and masqueraded;
//! later ones whose first was not seen go nowhere.

use std::net::Ipv4Addr;

use fairlead_dataplane_common::{DropReason, mac, maps, protocol};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use packet_tests::fragments::{join, join_v6, split, split_v6};
use packet_tests::frame::{self, NETWORK, OVERHEAD, mend_ip};
use packet_tests::{
    CLIENT, CLIENT_V6, NODE_1, NODE_2, POD_1, POD_1_V6, VIP, VIP_V6, Verdict, World, frame_v6,
};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";
const OUT: &str = "tc_uplink_out";
const POD: &str = "tc_from_pod";
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// A datagram's data, of 4,000 bytes.
fn data() -> Vec<u8> {
    (0..4_000_u32).map(|byte| (byte % 251) as u8).collect()
}

/// Runs a program on each; all have to get `verdict`.
fn run(
    world: &mut World,
    program: &'static str,
    fragments: &[Vec<u8>],
    verdict: Verdict,
) -> Vec<Vec<u8>> {
    let outcomes = fragments.iter().enumerate().map(|(index, fragment)| {
        let outcome = world.run(program, fragment);
        assert_eq!(outcome.verdict, verdict, "fragment {index} in {program}");
        outcome.frame
    });
    outcomes.collect()
}

#[test]
fn fragments_for_another_node_are_encapsulated_each_for_the_same_backend() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.add_service(protocol::UDP, 55, &[1, 2]);
    world.add_service_at(VIP_V6.into(), protocol::UDP, 55, &[11, 12]);
    let (mut sent, mut passed) = (0, 0);
    for port in 40_000..40_016 {
        let whole = frame::udp((CLIENT, port), (VIP, 55), &data());
        let whole_v6 = frame_v6::udp((CLIENT_V6, port), (VIP_V6, 55), &data());
        let fragments = [split(&whole, port), split_v6(&whole_v6, u32::from(port))];
        for (fragments, backend) in fragments.into_iter().zip([102, 112]) {
            assert_eq!(fragments.len(), 5);
            let first = world.run(XDP, &fragments[0]).verdict;
            let frames = run(&mut world, XDP, &fragments, first);
            if first == Verdict::Pass {
                passed += 1;
                assert_eq!(frames, fragments);
                continue;
            }
            sent += 1;
            assert_eq!(first, Verdict::Transmit);
            for (frame, fragment) in frames.iter().zip(&fragments) {
                assert_eq!(frame.len(), fragment.len() + OVERHEAD);
                assert_eq!(frame[50..56], mac::of_backend(backend));
                assert_eq!(frame[62..], fragment[12..]);
            }
        }
    }
    assert!(sent > 0 && passed > 0, "{sent} and {passed}");
}

#[test]
fn fragments_reach_the_pod_translated_and_whole() {
    let Some(mut world) = World::open() else {
        return;
    };
    let whole = frame::udp((CLIENT, 40_000), (VIP, 54), &data());
    let fragments = split(&whole, 7);
    run(&mut world, XDP, &fragments, Verdict::Pass);
    let joined = join(&run(&mut world, IN, &fragments, Verdict::Redirect));
    assert_eq!(frame::ends(&joined), ((CLIENT, 40_000), (POD_1, 8080)));
    frame::assert_checksums(&joined);
    assert_eq!(joined[42..], whole[42..]);

    let whole = frame_v6::udp((CLIENT_V6, 40_000), (VIP_V6, 54), &data());
    let fragments = split_v6(&whole, 7);
    run(&mut world, XDP, &fragments, Verdict::Pass);
    let joined = join_v6(&run(&mut world, IN, &fragments, Verdict::Redirect));
    assert_eq!(
        frame_v6::ends(&joined),
        ((CLIENT_V6, 40_000), (POD_1_V6, 8080))
    );
    frame_v6::assert_checksums(&joined);
    assert_eq!(joined[62..], whole[62..]);
}

#[test]
fn fragments_that_come_encapsulated_reach_the_backend_they_name() {
    let Some(mut world) = World::open() else {
        return;
    };
    let whole = frame::udp((CLIENT, 40_000), (VIP, 54), &data());
    let tunnelled: Vec<_> = split(&whole, 7)
        .iter()
        .map(|fragment| frame::vxlan(NODE_2, NODE_1, 0, mac::of_backend(101), fragment))
        .collect();
    let joined = join(&run(&mut world, IN, &tunnelled, Verdict::Redirect));
    assert_eq!(frame::ends(&joined), ((CLIENT, 40_000), (POD_1, 8080)));
    frame::assert_checksums(&joined);
}

#[test]
fn fragments_of_a_pods_answer_leave_in_the_vips_name() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.run(IN, &frame::udp((CLIENT, 40_000), (VIP, 54), b"query"));
    let whole = frame::udp((POD_1, 8080), (CLIENT, 40_000), &data());
    let joined = join(&run(&mut world, POD, &split(&whole, 9), Verdict::Pass));
    assert_eq!(frame::ends(&joined), ((VIP, 54), (CLIENT, 40_000)));
    frame::assert_checksums(&joined);

    world.run(
        IN,
        &frame_v6::udp((CLIENT_V6, 40_000), (VIP_V6, 54), b"query"),
    );
    let whole = frame_v6::udp((POD_1_V6, 8080), (CLIENT_V6, 40_000), &data());
    let joined = join_v6(&run(&mut world, POD, &split_v6(&whole, 9), Verdict::Pass));
    assert_eq!(frame_v6::ends(&joined), ((VIP_V6, 54), (CLIENT_V6, 40_000)));
    frame_v6::assert_checksums(&joined);
}

#[test]
fn fragments_of_a_pods_own_traffic_are_left_as_they_are() {
    let Some(mut world) = World::open() else {
        return;
    };
    let whole = frame::udp((POD_1, 9), (OUTSIDE, 9), &data());
    let fragments = split(&whole, 7);
    assert_eq!(run(&mut world, POD, &fragments, Verdict::Pass), fragments);
    let whole = frame_v6::udp((POD_1_V6, 9), (CLIENT_V6, 9), &data());
    let fragments = split_v6(&whole, 7);
    assert_eq!(run(&mut world, POD, &fragments, Verdict::Pass), fragments);
    assert_eq!(world.tables.fragments.keys().count(), 0, "nothing to note");
}

#[test]
fn fragments_are_masqueraded_and_their_answers_come_back() {
    let Some(mut world) = World::open() else {
        return;
    };
    let whole = frame::udp((POD_1, 5000), (OUTSIDE, 53), &data());
    let joined = join(&run(&mut world, OUT, &split(&whole, 7), Verdict::Pass));
    let ((node, port), to) = frame::ends(&joined);
    assert_eq!((node, to), (NODE_1, (OUTSIDE, 53)));
    frame::assert_checksums(&joined);

    let answer = frame::udp((OUTSIDE, 53), (NODE_1, port), &data());
    let joined = join(&run(&mut world, IN, &split(&answer, 8), Verdict::Redirect));
    assert_eq!(frame::ends(&joined), ((OUTSIDE, 53), (POD_1, 5000)));
    frame::assert_checksums(&joined);

    let own = frame::udp((OUTSIDE, 53), (NODE_1, 53), &data());
    let fragments = split(&own, 9);
    assert_eq!(run(&mut world, IN, &fragments, Verdict::Pass), fragments);
}

#[test]
fn large_pings_of_a_pod_are_masqueraded() {
    let Some(mut world) = World::open() else {
        return;
    };
    let mut message = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
    message.extend(data());
    let check = !fairlead_dataplane_common::checksum::sum(&message);
    message[2..4].copy_from_slice(&check.to_ne_bytes());
    let whole = frame::ipv4(POD_1, OUTSIDE, protocol::ICMP, &message);
    let joined = join(&run(&mut world, OUT, &split(&whole, 7), Verdict::Pass));
    assert_eq!(joined[26..30], NODE_1.octets());
    frame::assert_checksums(&joined);
    assert_ne!(joined[38..40], [0x12, 0x34], "an identifier of ours");
}

#[test]
fn later_fragment_without_its_first_is_dropped() {
    let Some(mut world) = World::open() else {
        return;
    };
    let fragments = split(&frame::udp((CLIENT, 1), (VIP, 53), &data()), 7);
    let fragments_v6 = split_v6(&frame_v6::udp((CLIENT_V6, 1), (VIP_V6, 53), &data()), 7);
    let from_pod = split(&frame::udp((POD_1, 1), (OUTSIDE, 53), &data()), 7);
    let unknown = Verdict::Drop(DropReason::FragmentUnknown);
    for program in [XDP, IN] {
        run(&mut world, program, &fragments[1..], unknown);
        run(&mut world, program, &fragments_v6[1..], unknown);
    }
    run(&mut world, OUT, &from_pod[1..], unknown);

    // Of another packet, from somebody else, and of another protocol.
    run(&mut world, XDP, &fragments[..1], Verdict::Transmit);
    run(&mut world, XDP, &fragments[1..], Verdict::Transmit);
    let other = split(&frame::udp((CLIENT, 1), (VIP, 53), &data()), 8);
    run(&mut world, XDP, &other[1..], unknown);
    let other = split(&frame::udp((NODE_2, 1), (VIP, 53), &data()), 7);
    run(&mut world, XDP, &other[1..], unknown);
    let mut other = fragments[1].clone();
    other[NETWORK + 9] = protocol::TCP;
    mend_ip(&mut other);
    run(&mut world, XDP, &[other], unknown);
}

#[test]
fn fragments_that_no_service_is_for_get_their_verdict() {
    let Some(mut world) = World::open() else {
        return;
    };
    let whole = frame::udp((CLIENT, 1), (VIP, 4444), &data());
    let closed = split(&whole, 7);
    run(&mut world, XDP, &closed[..1], Verdict::Pass);
    run(
        &mut world,
        IN,
        &closed[..1],
        Verdict::Drop(DropReason::UnknownPort),
    );
    assert_eq!(world.tables.fragments.keys().count(), 0, "nothing to note");

    let node = split(&frame::udp((CLIENT, 1), (NODE_1, 53), &data()), 7);
    let node_v6 = split_v6(&frame_v6::udp((CLIENT_V6, 1), (CLIENT_V6, 53), &data()), 7);
    for program in [XDP, IN] {
        assert_eq!(run(&mut world, program, &node, Verdict::Pass), node);
        assert_eq!(run(&mut world, program, &node_v6, Verdict::Pass), node_v6);
    }
    let mut tiny = split(&frame::tcp((CLIENT, 1), (VIP, 80), 0x10, &data()), 7).remove(0);
    tiny.truncate(NETWORK + 20 + 16);
    tiny[NETWORK + 2..NETWORK + 4].copy_from_slice(&36_u16.to_be_bytes());
    mend_ip(&mut tiny);
    run(
        &mut world,
        XDP,
        &[tiny],
        Verdict::Drop(DropReason::Malformed),
    );
}

#[test]
fn more_packets_than_are_noted_cost_the_oldest_their_later_fragments_and_nobody_else() {
    let Some(mut world) = World::open() else {
        return;
    };
    // What is oldest is told apart by CPU until its share of the map is full.
    stay_on_one_cpu();
    let of_packet = |number: u32| {
        let whole = frame_v6::udp((CLIENT_V6, 40_000), (VIP_V6, 53), &[0x5a; 1_200]);
        split_v6(&whole, number)
    };
    for number in 0..=maps::FRAGMENTS_MAX {
        run(&mut world, XDP, &of_packet(number)[..1], Verdict::Transmit);
    }
    let oldest = of_packet(0).remove(1);
    for program in [XDP, IN] {
        let verdict = Verdict::Drop(DropReason::FragmentUnknown);
        assert_eq!(world.run(program, &oldest).verdict, verdict);
    }
    let sample = world.sample(None, DropReason::FragmentUnknown);
    assert_eq!(sample.expect("a sample").bytes[..62], oldest[..62]);
    for number in maps::FRAGMENTS_MAX / 2..=maps::FRAGMENTS_MAX {
        run(&mut world, XDP, &of_packet(number)[1..], Verdict::Transmit);
    }
}

fn stay_on_one_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu().expect("ask for the CPU"))
        .expect("a CPU");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("stay on the CPU");
}
