//! Probes between nodes: a request for this node is answered with its mark, an answer to this node's own
//! question is noted, and everything else passes as it is.

use fairlead_dataplane_common::{Counter, Probe, ProbeEntry, mac};
use packet_tests::frame::OWN_MAC;
use packet_tests::{NODE_2_MAC, Verdict, World};

const XDP: &str = "xdp_ingress";
const OWN: u32 = 1;
const OTHER: u32 = 2;
const STRANGER: u32 = 3;
const NONCE: u32 = 0x1234_5678;
/// None; VLAN 100; VLAN 100 in service VLAN 7.
const TAGS: [&[u8]; 3] = [
    &[],
    &[0x81, 0, 0, 100],
    &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 100],
];

/// What [`OTHER`] asks this node.
fn request() -> Probe {
    Probe::request(OTHER, OWN, NODE_2_MAC, NONCE)
}

/// What [`OTHER`] answers this node.
fn answer() -> Probe {
    Probe::request(OWN, OTHER, OWN_MAC, NONCE).answer()
}

/// The frame with tags, and filled up as cards do (IEEE 802.3 §4.2.3.3).
fn sent(frame: &[u8], tags: &[u8]) -> Vec<u8> {
    let mut sent = [&frame[..12], tags, &frame[12..]].concat();
    sent.resize(60, 0);
    sent
}

/// A node that has asked [`OTHER`].
fn world() -> Option<World> {
    let mut world = World::open()?;
    let entry = ProbeEntry {
        nonce: NONCE,
        is_answered: 0,
    };
    world.tables.probes.insert(OTHER, entry, 0).unwrap();
    Some(world)
}

fn is_answered(world: &World) -> bool {
    world.tables.probes.get(&OTHER, 0).unwrap().is_answered == 1
}

#[test]
fn request_is_answered_by_a_frame_with_this_nodes_mark() {
    let Some(mut world) = world() else { return };
    for tags in TAGS {
        let outcome = world.run(XDP, &sent(&request().frame(OWN_MAC), tags));
        assert_eq!(outcome.verdict, Verdict::Transmit, "{tags:x?}");
        let expected = request().answer().frame(NODE_2_MAC);
        assert_eq!(expected[6..12], mac::of_node(OWN));
        assert_eq!(outcome.frame, sent(&expected, tags), "{tags:x?}");
    }
    let whole = world.run(XDP, &request().frame(OWN_MAC));
    assert_eq!(whole.verdict, Verdict::Transmit, "that is not filled up");
    assert_eq!(world.counter(Counter::ProbeAnswered), 4);
    assert!(!is_answered(&world));
}

#[test]
fn answer_to_the_last_question_is_noted_and_goes_no_further() {
    for tags in TAGS {
        let Some(mut world) = world() else { return };
        let outcome = world.run(XDP, &sent(&answer().frame(OWN_MAC), tags));
        assert_eq!(outcome.verdict, Verdict::TakenIn, "{tags:x?}");
        assert!(is_answered(&world), "{tags:x?}");
        assert_eq!(world.counter(Counter::ProbeNoted), 1);
    }
}

#[test]
fn what_is_no_probe_for_this_node_passes_as_it_is() {
    let Some(mut world) = world() else { return };
    let request = request();
    let answer = answer();
    let with_source = |frame: &[u8], source: [u8; 6]| {
        let mut frame = frame.to_vec();
        frame[6..12].copy_from_slice(&source);
        frame
    };
    let (asked, answered) = (request.frame(OWN_MAC), answer.frame(OWN_MAC));
    let group = [0x01, 0, 0x5e, 0, 0, 1];
    let magic_be = (Probe::MAGIC + 1).to_be();
    let cases = [
        (
            "a request for another node",
            Probe::request(OTHER, STRANGER, NODE_2_MAC, NONCE)
                .frame(OWN_MAC)
                .to_vec(),
        ),
        (
            "a request with a source of its port's",
            with_source(&asked, NODE_2_MAC),
        ),
        (
            "a request with another node's mark",
            with_source(&asked, mac::of_node(STRANGER)),
        ),
        (
            "a request whose answer would go to many",
            Probe::request(OTHER, OWN, group, NONCE)
                .frame(OWN_MAC)
                .to_vec(),
        ),
        (
            "of another version",
            Probe {
                magic_be,
                ..request
            }
            .frame(OWN_MAC)
            .to_vec(),
        ),
        (
            "of no kind",
            Probe {
                kind_be: 3_u16.to_be(),
                ..request
            }
            .frame(OWN_MAC)
            .to_vec(),
        ),
        ("cut short", asked[..Probe::FRAME_BYTES - 1].to_vec()),
        ("without anything", asked[..14].to_vec()),
        (
            "an answer to an earlier question",
            Probe {
                nonce: NONCE - 1,
                ..answer
            }
            .frame(OWN_MAC)
            .to_vec(),
        ),
        (
            "an answer of a node that was not asked",
            Probe::request(OWN, STRANGER, OWN_MAC, NONCE)
                .answer()
                .frame(OWN_MAC)
                .to_vec(),
        ),
        (
            "an answer to another node",
            Probe::request(STRANGER, OTHER, OWN_MAC, NONCE)
                .answer()
                .frame(OWN_MAC)
                .to_vec(),
        ),
        (
            "an answer with a source of its port's",
            with_source(&answered, NODE_2_MAC),
        ),
    ];
    for (description, frame) in cases {
        for tags in TAGS {
            let tagged = [&frame[..12], tags, &frame[12..]].concat();
            let outcome = world.run(XDP, &tagged);
            assert_eq!(
                outcome.verdict,
                Verdict::Pass,
                "{description}, tags {tags:x?}"
            );
            assert_eq!(outcome.frame, tagged, "{description}, tags {tags:x?}");
        }
    }
    assert!(!is_answered(&world));
    assert_eq!(world.counter(Counter::ProbeAnswered), 0);
    assert_eq!(world.counter(Counter::ProbeNoted), 0);
}
