//! ICMP errors about what is translated, and resets.

use super::*;

/// Errors of every kind in both directions, by one program.
fn check_errors(world: &mut World, program: &'static str, site: Site) {
    let sent = match program {
        XDP => Verdict::Transmit,
        _ => Verdict::Redirect,
    };
    let outcome = world.run(program, &site.question());
    assert_eq!(outcome.verdict, sent);
    let (node, server) = dual::ends(&outcome.frame);
    let (client, vip) = (site.client(40_000), site.vip());
    let before = world.tables.nat.get(&site.key(node.port()), 0);
    for kind in dual::Kind::ALL {
        // Somebody before the client, and the client itself, about an answer.
        let about = dual::tcp(vip, client, ACK, b"answer");
        for (reporter, seen_as) in [(site.hop(), site.hop), (client, site.node)] {
            let error = dual::error(kind, reporter, vip, &about);
            let outcome = world.run(program, &error);
            assert_eq!(outcome.verdict, sent, "{kind:?} to {server}");
            let (from, to) = dual::ends(&outcome.frame);
            assert_eq!((from.ip(), to.ip()), (seen_as, site.server), "{kind:?}");
            assert_eq!(dual::quoted_ends(&outcome.frame), (server, node));
            assert_eq!(dual::hops(&outcome.frame), dual::hops(&error) - 1);
            dual::assert_checksums(&outcome.frame);
        }
        // Somebody before the server, and the server itself, about a question.
        let about = dual::tcp(node, server, ACK, b"question");
        for (reporter, seen_as) in [(site.hop(), site.hop), (server, site.vip)] {
            let error = dual::error(kind, reporter, node, &about);
            let outcome = world.run(program, &error);
            assert_eq!(outcome.verdict, sent, "{kind:?} to {client}");
            assert_eq!(outcome.frame[..6], ROUTER_MAC);
            let (from, to) = dual::ends(&outcome.frame);
            assert_eq!((from.ip(), to.ip()), (seen_as, site.client), "{kind:?}");
            assert_eq!(dual::quoted_ends(&outcome.frame), (client, vip));
            dual::assert_checksums(&outcome.frame);
        }
    }
    let after = world.tables.nat.get(&site.key(node.port()), 0);
    assert_eq!(
        after.expect("entered"),
        before.expect("entered"),
        "an error leaves no trace"
    );
    // About what the node itself has sent.
    let about = dual::tcp(site.node(50_000), server, ACK, b"question");
    let error = dual::error(dual::Kind::Unreachable, site.hop(), node, &about);
    let outcome = world.run(program, &error);
    assert_eq!((outcome.verdict, outcome.frame), (Verdict::Pass, error));
}

#[test]
fn errors_are_translated_inside_and_out_in_xdp() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        check_errors(&mut world, XDP, site);
    }
}

#[test]
fn errors_are_translated_inside_and_out_in_tc() {
    let Some(mut world) = world(None) else { return };
    for site in SITES {
        check_errors(&mut world, IN, site);
    }
}

#[test]
fn error_or_reset_of_a_flow_that_is_not_translated_begins_nothing() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let (client, vip) = (site.client(40_000), site.vip());
        let about = dual::tcp(vip, client, ACK, b"answer");
        for (frame, reason) in [
            (
                dual::error(dual::Kind::TooBig, site.hop(), vip, &about),
                DropReason::ForeignError,
            ),
            (dual::tcp(client, vip, RST, b""), DropReason::NotTranslated),
        ] {
            for program in [XDP, IN] {
                let outcome = world.run(program, &frame);
                assert_eq!(outcome.verdict, Verdict::Drop(reason), "{program}");
            }
        }
    }
    assert_eq!((entries(&world), world.flows()), (0, 0));
}

#[test]
fn reset_of_a_translated_flow_reaches_its_server() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let port = site.leaves_by(&mut world, 40_000);
        let reset = dual::tcp(site.client(40_000), site.vip(), RST, b"");
        let outcome = world.run(XDP, &reset);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        let ends = (site.node(port), site.server());
        assert_eq!(dual::ends(&outcome.frame), ends);
    }
}
