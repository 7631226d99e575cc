//! Node ports, external addresses, announcements.

use super::*;

fn entry_at(maps: &Maps, address: &str, protocol: u8, port: u16) -> Option<(u32, u32)> {
    let address: IpAddr = address.parse().unwrap();
    let key = FrontendKey::new(0, address.into(), protocol, port.to_be());
    let entry = maps.observed.frontends(maps.observed.active()).get(&key)?;
    Some((entry.service, entry.flags & !FRONTEND_USED))
}

#[test]
fn node_port_answers_at_the_nodes_own_address_alone() {
    let mut maps = Maps::default();
    let mut state = state();
    state.services[0].node_port = 30_080;
    apply(&mut maps, &state, 1);
    let slot = maps.observed.service(ServiceId(1)).unwrap().0;
    let found = entry_at(&maps, "198.18.0.101", 6, 30_080);
    assert_eq!(found, Some((slot, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT)));
    assert_eq!(entry_at(&maps, "198.18.0.102", 6, 30_080), None);
    assert_eq!(entry_at(&maps, "198.18.0.101", 0, 0), None, "no VIP");

    state.services[0].node_port = 30_081;
    let before = desired(&state_with_node_port(30_080));
    let (after, scope) = before
        .advance(
            &Changes {
                services: BTreeMap::from([(1, Some(state.services[0].clone()))]),
                ..Changes::default()
            },
            &own(),
        )
        .unwrap();
    let actions = actions(&maps, &after, &scope, &local(), 2);
    execute(&mut maps, &actions);
    assert_eq!(entry_at(&maps, "198.18.0.101", 6, 30_080), None);
    assert!(entry_at(&maps, "198.18.0.101", 6, 30_081).is_some());
    assert_eq!(planned(&state, &maps, 2), []);
}

fn state_with_node_port(port: u32) -> DataplaneState {
    let mut state = state();
    state.services[0].node_port = port;
    state
}

#[test]
fn external_address_of_the_node_itself_leaves_its_other_ports_alone() {
    let mut maps = Maps::default();
    let mut state = state();
    state.services[0].frontends[0].address = vec![198, 18, 0, 101].into();
    apply(&mut maps, &state, 1);
    let (_, flags) = entry_at(&maps, "198.18.0.101", 6, 80).unwrap();
    assert_eq!(flags, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT);
    assert_eq!(entry_at(&maps, "198.18.0.101", 0, 0), None);
}

#[test]
fn only_the_holder_of_an_announcement_answers_for_the_vip() {
    let mut maps = Maps::default();
    let mut state = state();
    for (node, expected) in [
        (None, FRONTEND_ADDRESS),
        (Some("node-1"), FRONTEND_ADDRESS | FRONTEND_ANNOUNCED),
        (Some("node-2"), FRONTEND_ADDRESS),
    ] {
        state.announcements = node
            .map(|node| proto::Announcement {
                address: HELLO_VIP.to_vec().into(),
                node: node.to_owned(),
            })
            .into_iter()
            .collect();
        apply(&mut maps, &state, 1);
        let found = entry_at(&maps, "198.18.100.1", 0, 0);
        assert_eq!(found, Some((0, expected)), "{node:?}");
    }
}
