//! Flows that are noted: one look settles their packets, and has to see all that may have changed.

use fairlead_dataplane_common::{
    BACKEND_ACTIVE, BACKEND_DRAINING, BACKEND_EMPTY, FLOW_CLOSING, FLOW_ESTABLISHED, FLOW_OPENING,
    SERVICE_SOURCE_RANGES, SERVICE_TRACK,
};
use packet_tests::frame::FIN;

use super::*;

/// The slot of the service that a site's flow is for.
fn service(world: &World, site: &Site) -> u32 {
    let noted = world.flow(&site.flow(40_000)).expect("noted");
    // Its id is one more.
    noted.service - 1
}

#[test]
fn answers_follow_a_client_that_is_behind_another_router() {
    const OTHER_ROUTER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let port = site.leaves_by(&mut world, 40_000);
        for router in [OTHER_ROUTER, ROUTER_MAC, OTHER_ROUTER] {
            let mut question = site.question();
            question[6..12].copy_from_slice(&router);
            for _ in 0..2 {
                let outcome = world.run(XDP, &question);
                assert_eq!(outcome.verdict, Verdict::Transmit);
                assert_eq!(dual::ends(&outcome.frame), (site.node(port), site.server()));
                let outcome = world.run(XDP, &site.answer(port));
                assert_eq!(outcome.frame[..6], router);
            }
        }
    }
}

#[test]
fn questions_are_counted_in_flows_and_answers_in_nat() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let (client, vip) = (site.client(40_000), site.vip());
        let mut port = 0;
        for (number, flags, state) in [
            (1, SYN, FLOW_OPENING),
            (2, ACK, FLOW_ESTABLISHED),
            (3, ACK, FLOW_ESTABLISHED),
            (4, ACK | FIN, FLOW_CLOSING),
            (5, ACK, FLOW_CLOSING),
        ] {
            let question = dual::tcp(client, vip, flags, b"");
            let outcome = world.run(XDP, &question);
            assert_eq!(outcome.verdict, Verdict::Transmit);
            port = dual::ends(&outcome.frame).0.port();
            let noted = world.flow(&site.flow(40_000)).expect("noted");
            assert_eq!((noted.packets, noted.state), (number, state));
            assert_eq!(noted.bytes, number * question.len() as u64);
        }
        let stats = world.backend_stats(site.slot);
        assert_eq!((stats.packets, stats.connections), (5, 1));
        let answer = site.answer(port);
        for number in 1..4 {
            assert_eq!(world.run(XDP, &answer).verdict, Verdict::Transmit);
            let entry = world.tables.nat.get(&site.key(port), 0).expect("entered");
            assert_eq!(entry.packets, number);
            assert_eq!(entry.bytes, number * answer.len() as u64);
        }
    }
}

#[test]
fn flow_is_refused_to_clients_that_may_not_use_the_service_any_more() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        site.leaves_by(&mut world, 40_000);
        let slot = service(&world, &site);
        world.set_flags(slot, SERVICE_SOURCE_RANGES);
        let outcome = world.run(XDP, &site.question());
        let refused = Verdict::Drop(DropReason::SourceNotAllowed);
        assert_eq!(outcome.verdict, refused);
    }
}

#[test]
fn flow_is_not_translated_when_its_service_is_not_any_more() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        site.leaves_by(&mut world, 40_000);
        let slot = service(&world, &site);
        world.set_flags(slot, SERVICE_TRACK);
        world.clear_flags(slot, SERVICE_NAT);
        let question = site.question();
        let outcome = world.run(XDP, &question);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        assert!(outcome.frame.len() > question.len(), "it is encapsulated");
        assert_eq!(outcome.frame[outcome.frame.len() - 4..], *b"data");
    }
}

#[test]
fn flow_ends_with_its_backend_and_not_before() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let port = site.leaves_by(&mut world, 40_000);
        let (client, vip) = (site.client(40_000), site.vip());
        let sent_on = (site.node(port), site.server());
        for (state, ends) in [
            (BACKEND_DRAINING, sent_on),
            (BACKEND_ACTIVE, sent_on),
            (BACKEND_EMPTY, (vip, client)),
        ] {
            world.set_state(site.slot, state);
            let outcome = world.run(XDP, &site.question());
            assert_eq!(outcome.verdict, Verdict::Transmit);
            assert_eq!(dual::ends(&outcome.frame), ends, "state {state}");
        }
    }
    assert_eq!(world.counter(Counter::Reset), SITES.len() as u64);
}

#[test]
fn flow_whose_hash_is_anothers_is_translated_without_a_note() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let flow = site.flow(40_000);
        world.note_another(&flow, site.slot);
        let port = site.leaves_by(&mut world, 40_000);
        assert_eq!(site.leaves_by(&mut world, 40_000), port);
        let outcome = world.run(XDP, &site.answer(port));
        assert_eq!(
            dual::ends(&outcome.frame),
            (site.vip(), site.client(40_000))
        );
        assert_eq!(world.flow(&flow), None);
        world.forget(&flow);
        assert_eq!(site.leaves_by(&mut world, 40_000), port);
        let noted = world.flow(&flow).expect("noted");
        assert_eq!(noted.nat_port_be, port.to_be());
    }
}

#[test]
fn packet_of_an_established_flow_that_does_not_fit_is_answered() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let vip = (site.vip, REMOTE).into();
        let client = site.client(40_000);
        let ip = match site.client {
            IpAddr::V4(_) => 20,
            IpAddr::V6(_) => 40,
        };
        // The MTU of the way is 1500, of which VXLAN takes 50.
        for (length, fits) in [(100, true), (1450, true), (1451, false)] {
            let data = vec![0x5a; length - ip - 20];
            let outcome = world.run(XDP, &dual::tcp(client, vip, ACK, &data));
            assert_eq!(outcome.verdict, Verdict::Transmit);
            let is_sent_on = outcome.frame.len() > 50 && outcome.frame[50..56] == mac::of_node(2);
            assert_eq!(is_sent_on, fits, "{length} bytes");
        }
    }
    assert_eq!(world.counter(Counter::TooBigAnswered), 2);
}
