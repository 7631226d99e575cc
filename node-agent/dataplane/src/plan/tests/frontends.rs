//! Node ports, external addresses, announcements.

use fairlead_dataplane_common::VipPrefix;

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

/// As [`entry_at`], of a prefix.
fn entry_of_prefix(maps: &Maps, range: &str, protocol: u8, port: u16) -> Option<(u32, u32)> {
    let prefix = Prefix::new(0, range.parse().unwrap());
    let key = FrontendKey::new(0, prefix.address, protocol, port.to_be()).at_prefix(&prefix.vip());
    let entry = maps.observed.frontends(maps.observed.active()).get(&key)?;
    Some((entry.service, entry.flags - FRONTEND_USED))
}

/// The state, and its first service also at a prefix of each family: the first begins with the one
/// address that it has of its own.
fn with_prefixes() -> proto::DataplaneState {
    let mut state = state();
    let single = state.services[0].frontends[0].clone();
    for (address, prefix_length) in [(vec![198, 18, 100, 0], 28), (vec![0x20; 16], 124)] {
        state.services[0].frontends.push(proto::Frontend {
            address: address.into(),
            prefix_length,
            ..single.clone()
        });
    }
    state.services[0].frontends[0].address = vec![198, 18, 100, 0].into();
    state
}

#[test]
fn prefixes_are_vips_while_a_service_answers_there() {
    const V4: &str = "198.18.100.0/28";
    const V6: &str = "2020:2020:2020:2020:2020:2020:2020:2020/124";
    let mut maps = Maps::default();
    apply(&mut maps, &state(), 1);
    assert_eq!(maps.observed.config.has_vip_prefixes, 0);

    let mut state = with_prefixes();
    apply(&mut maps, &state, 2);
    let slot = maps.observed.service(ServiceId(1)).unwrap().0;
    for range in [V4, V6] {
        let answer = entry_of_prefix(&maps, range, 6, 80);
        assert_eq!(answer, Some((slot, FRONTEND_EXTERNAL)));
        let itself = entry_of_prefix(&maps, range, 0, 0);
        assert_eq!(itself, Some((0, FRONTEND_ADDRESS)));
    }
    let of_address = entry_at(&maps, "198.18.100.0", 6, 80);
    assert_eq!(of_address, Some((slot, FRONTEND_EXTERNAL)));
    let prefixes: Vec<VipPrefix> = maps.observed.vip_prefixes.iter().map(Prefix::vip).collect();
    let lengths = prefixes.iter().map(|prefix| prefix.length);
    assert_eq!(
        Vec::from_iter(lengths),
        [124, 124],
        "both count of 128 bits"
    );
    assert_eq!(maps.observed.config.has_vip_prefixes, 1);
    assert_eq!(planned(&state, &maps, 2), []);

    // What is there without being wanted goes, and what is missing comes back.
    maps.observed.vip_prefixes.pop_first();
    let stray = Prefix::new(0, "192.0.2.0/24".parse().unwrap());
    maps.observed.vip_prefixes.insert(stray);
    assert_eq!(
        kinds(&planned(&state, &maps, 2)),
        ["add VIP prefix", "remove VIP prefix"]
    );

    state.services[0].frontends.truncate(1);
    apply(&mut maps, &state, 3);
    assert_eq!(maps.observed.vip_prefixes, BTreeSet::new());
    assert_eq!(maps.observed.config.has_vip_prefixes, 0);
    assert_eq!(entry_of_prefix(&maps, V6, 6, 80), None);
    assert_eq!(entry_of_prefix(&maps, V6, 0, 0), None);
}

#[test]
fn prefix_is_known_before_the_flip_and_until_no_program_reads_the_state_before() {
    let mut maps = Maps::default();
    apply(&mut maps, &state(), 1);
    let position = |kinds: &[&str], kind| kinds.iter().position(|one| *one == kind).unwrap();

    let entering = kinds(&planned(&with_prefixes(), &maps, 2));
    let flip = position(&entering, "write config");
    assert!(position(&entering, "add VIP prefix") < flip);

    apply(&mut maps, &with_prefixes(), 2);
    let leaving = kinds(&planned(&state(), &maps, 3));
    let flip = position(&leaving, "write config");
    assert!(position(&leaving, "remove VIP prefix") > flip);
}

#[test]
fn prefixes_in_each_other_are_as_many_as_programs_look_for() {
    let mut state = state();
    let single = state.services[0].frontends[0].clone();
    let mut lengths = 20..;
    let mut deepen = |state: &mut proto::DataplaneState| {
        state.services[0].frontends.push(proto::Frontend {
            address: vec![203, 0, 112, 0].into(),
            prefix_length: lengths.next().unwrap(),
            ..single.clone()
        });
    };
    for _ in 0..maps::VIP_PREFIXES_NESTED_MAX {
        deepen(&mut state);
    }
    let mut maps = Maps::default();
    apply(&mut maps, &state, 1);
    deepen(&mut state);
    let (desired, generation, moment) = (desired(&state), Generation(2), Moment::default());
    let everything = Scope::Everything;
    let planned = plan(
        &desired,
        &everything,
        &local(),
        &maps.observed,
        generation,
        moment,
    );
    let full = planned.unwrap_err();
    assert_eq!(
        full.to_string(),
        "5 VIPs that are prefixes, each in the one before, do not fit: the dataplane holds 4"
    );
}
