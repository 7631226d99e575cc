//! Clients and servers at other interfaces, and in VLANs.

use super::*;

#[test]
fn client_on_another_interface_is_answered_by_tc() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let port = site.leaves_by(&mut world, 40_000);
        let key = site.key(port);
        let entry = world.tables.nat.get(&key, 0).expect("entered");
        assert_eq!(entry.place.ifindex, UPLINK);
        let mut elsewhere = entry;
        elsewhere.place.ifindex = UPLINK + 1;
        let written = world.tables.nat.insert(key, elsewhere, 0);
        written.expect("write the entry");
        let answer = site.answer(port);
        let outcome = world.run(XDP, &answer);
        assert_eq!(outcome.verdict, Verdict::Pass);
        assert_eq!(outcome.frame, answer);
        let outcome = world.run(IN, &answer);
        assert_eq!(outcome.verdict, Verdict::Redirect);
        let ends = dual::ends(&outcome.frame);
        assert_eq!(ends, (site.vip(), site.client(40_000)));
        dual::assert_checksums(&outcome.frame);
    }
}

#[test]
fn server_on_another_interface_is_left_to_tc_and_counted_once() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        world.set_interface(site.slot, UPLINK + 1);
        let question = site.question();
        assert_eq!(world.run(XDP, &question).verdict, Verdict::Pass);
        assert_eq!(world.run(IN, &question).verdict, Verdict::Redirect);
        assert_eq!(world.backend_stats(site.slot).packets, 1);
        assert_eq!(world.flow(&site.flow(40_000)).expect("noted").packets, 1);

        world.set_interface(site.slot, UPLINK);
        assert_eq!(world.run(XDP, &question).verdict, Verdict::Transmit);
    }
}

/// VLAN 100, and VLAN 100 in service VLAN 7 with a priority.
const TAGS: [&[u8]; 2] = [&[0x81, 0, 0, 100], &[0x88, 0xa8, 0xe0, 7, 0x81, 0, 0, 100]];

fn tagged(frame: &[u8], tags: &[u8]) -> Vec<u8> {
    [&frame[..12], tags, &frame[12..]].concat()
}

#[test]
fn client_and_server_may_be_in_different_vlans() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        for (port, tags) in (40_000..).zip(TAGS) {
            let question = dual::tcp(site.client(port), site.vip(), ACK, b"data");
            let plain = world.run(XDP, &question);
            let outcome = world.run(XDP, &tagged(&question, tags));
            assert_eq!(outcome, plain, "the server is in none");
            let (node, _) = dual::ends(&plain.frame);
            let answer = site.answer(node.port());
            for (description, answer) in [
                ("the server in none", answer.clone()),
                ("the server in another", tagged(&answer, &[0x81, 0, 0, 9])),
            ] {
                let out = world.run(XDP, &answer);
                assert_eq!(out.verdict, Verdict::Transmit, "{description}");
                assert_eq!(out.frame[12..12 + tags.len()], *tags, "{description}");
                let out = [&out.frame[..12], &out.frame[12 + tags.len()..]].concat();
                assert_eq!(dual::ends(&out), (site.vip(), site.client(port)));
                dual::assert_checksums(&out);
            }
            // The client's next packet comes without, and so do answers go.
            world.run(XDP, &question);
            let out = world.run(XDP, &tagged(&answer, tags));
            let ends = (site.vip(), site.client(port));
            assert_eq!(dual::ends(&out.frame), ends);
        }
    }
}

#[test]
fn client_in_a_vlan_is_answered_there_by_tc() {
    let Some(mut world) = world(None) else { return };
    for site in SITES {
        // The kernel takes the outer tag off before TC sees a packet, and `BPF_PROG_TEST_RUN` does not:
        // the outer of the two that a client's packet has is the one before, and what TC puts on goes
        // out beside the packet, but for an inner one.
        let [one, two] = TAGS;
        for tags in [one, two] {
            let outcome = world.run(IN, &tagged(&site.question(), tags));
            assert_eq!(outcome.verdict, Verdict::Redirect);
            let (node, server) = dual::ends(&outcome.frame);
            assert_eq!((node.ip(), server), (site.node, site.server()));
            let key = site.key(node.port());
            let entry = world.tables.nat.get(&key, 0).expect("entered");
            let outer = u32::from_ne_bytes(tags[..4].try_into().expect("four bytes"));
            assert_eq!(entry.place.tag, outer);
            let inner = if tags.len() == 8 { 100_u16.to_be() } else { 0 };
            assert_eq!(entry.place.inner_tag, inner);

            let out = world.run(IN, &site.answer(node.port()));
            assert_eq!(out.verdict, Verdict::Redirect);
            let inner = &tags[4..];
            assert_eq!(out.frame[12..12 + inner.len()], *inner);
            let out = [&out.frame[..12], &out.frame[12 + inner.len()..]].concat();
            assert_eq!(dual::ends(&out), (site.vip(), site.client(40_000)));
            dual::assert_checksums(&out);
        }
    }
}
