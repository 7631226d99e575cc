//! Nodes: how they are reached.

use super::*;
use crate::probing::Target;

#[test]
fn known_way_resolves_the_node_and_a_restart_does_not_forget_it() {
    let mut maps = Maps::default();
    let mut here = local();
    let mac = [2, 0, 0, 0, 0, 9];
    here.ways.insert(
        [198, 18, 0, 102].into(),
        Way {
            direct: true,
            interface: 7,
            mtu: 1500,
            mac: Some(mac),
        },
    );
    let wanted = desired(&state());
    for action in actions(&maps, &wanted, &Scope::Everything, &here, 5) {
        maps.execute(&action);
    }
    let resolved = |maps: &Maps, id: u32| {
        maps.observed
            .nodes
            .values()
            .any(|n| n.id == id && n.flags & NODE_RESOLVED != 0)
    };
    assert!(resolved(&maps, 2) && !resolved(&maps, 3));
    let after_restart = local();
    assert_eq!(
        actions(&maps, &wanted, &Scope::Everything, &after_restart, 5),
        []
    );
}

#[test]
fn frames_are_passed_on_to_a_node_where_they_are_proved_to_arrive_and_nowhere_else() {
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
    let target = |mac| Target { interface: 7, mac };
    let way = |direct, mac| Way {
        direct,
        interface: 7,
        mtu: 1500,
        mac,
    };
    let cases = [
        ("proved", way(true, Some(MAC)), Some(target(MAC)), true),
        ("not proved", way(true, Some(MAC)), None, false),
        (
            "proved of another address",
            way(true, Some(MAC)),
            Some(target([2; 6])),
            false,
        ),
        ("not resolved", way(true, None), Some(target(MAC)), false),
        (
            "behind a router",
            way(false, Some(MAC)),
            Some(target(MAC)),
            false,
        ),
    ];
    for (description, way, proved, takes_frames) in cases {
        let mut here = local();
        here.ways.insert([198, 18, 0, 102].into(), way);
        here.proved.extend(proved.map(|target| (2, target)));
        let entry = here.node_entry(2, [198, 18, 0, 102].into(), None);
        assert_eq!(entry.takes_frames(), takes_frames, "{description}");
        // After a restart the ways are not known yet, and what was proved is read from the maps.
        let mut restarted = local();
        restarted.proved.clone_from(&here.proved);
        let again = restarted.node_entry(2, [198, 18, 0, 102].into(), Some(&entry));
        assert_eq!(again, entry, "{description}");
    }
}

#[test]
fn node_is_routed_to_at_both_its_addresses_and_encapsulated_for_at_one() {
    let mut state = state();
    let other: std::net::Ipv6Addr = "2001:db8::102".parse().unwrap();
    state.nodes[1].other_address = other.octets().to_vec().into();
    let mut maps = Maps::default();
    apply(&mut maps, &state, 1);
    let routed: Vec<IpAddr> = maps
        .observed
        .routes
        .iter()
        .filter(|(_, entry)| entry.kind == fairlead_dataplane_common::ROUTE_NODE_HOST)
        .map(|(prefix, _)| prefix.address.into())
        .collect();
    assert_eq!(routed.len(), 3, "{routed:?}");
    assert!(routed.contains(&other.into()), "{routed:?}");
    assert_eq!(maps.observed.node_addresses.len(), 2);
}
