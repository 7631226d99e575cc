//! The ports of the node that flows are given.

use super::*;

#[test]
fn flows_get_ports_of_their_own_until_none_is_left() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let mut ports = HashSet::new();
        for client_port in 20_000..20_200 {
            assert!(ports.insert(site.leaves_by(&mut world, client_port)));
        }
        let taken = NatEntry {
            client: site.node.into(),
            ..NatEntry::default()
        };
        for port in NAT_PORT_MIN..=NAT_PORT_MAX {
            // Those of the flows above stay theirs.
            let _ = world.tables.nat.insert(site.key(port), taken, 1);
        }
        let one_more = dual::tcp(site.client(30_000), site.vip(), SYN, b"");
        for program in [XDP, IN] {
            let outcome = world.run(program, &one_more);
            assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NatExhausted));
        }
        assert!(ports.contains(&site.leaves_by(&mut world, 20_000)));
    }
}

#[test]
fn flow_that_is_noted_keeps_its_port_when_another_becomes_free() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let first = site.leaves_by(&mut world, 40_000);
        let entry = world.tables.nat.get(&site.key(first), 0).expect("entered");
        assert_eq!(entry.vip_port_be, PORT.to_be());
        let other = NatEntry {
            client: site.node.into(),
            ..entry
        };
        world.forget(&site.flow(40_000));
        let tables = &mut world.tables;
        tables
            .nat
            .insert(site.key(first), other, 0)
            .expect("taken by another");
        let second = site.leaves_by(&mut world, 40_000);
        assert_ne!(first, second);
        let noted = world.flow(&site.flow(40_000)).expect("noted");
        assert_eq!(noted.nat_port_be, second.to_be());
        let removed = world.tables.nat.remove(&site.key(first));
        removed.expect("the other goes");
        assert_eq!(site.leaves_by(&mut world, 40_000), second);
    }
}

#[test]
fn ports_that_answer_nothing_are_the_nodes_own() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let port = site.leaves_by(&mut world, 40_000);
        let cases = [
            dual::tcp((site.server, 9001).into(), site.node(port), ACK, b""),
            dual::udp(site.server(), site.node(port), b""),
            dual::tcp((site.client, 9000).into(), site.node(port), ACK, b""),
            dual::tcp(site.server(), site.node(port ^ 1), ACK, b""),
        ];
        for frame in cases {
            for program in [XDP, IN] {
                let outcome = world.run(program, &frame);
                assert_eq!(outcome.verdict, Verdict::Pass);
                assert_eq!(outcome.frame, frame);
            }
        }
    }
}
