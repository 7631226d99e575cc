use std::time::Duration;

use fairlead_proto::node::{DataplaneState, Service as ServiceMessage};

use super::*;
use crate::examples::{backend, own, service, state};

fn check(state: &DataplaneState) -> Result<Desired, Invalid> {
    let whole = Changes::whole(state.clone());
    Desired::default()
        .advance(&whole, &own())
        .map(|(desired, _)| desired)
}

fn changes(services: &[(u32, Option<ServiceMessage>)]) -> Changes {
    Changes {
        services: services.iter().cloned().collect(),
        ..Changes::default()
    }
}

#[test]
fn whole_state_is_converted() {
    let desired = check(&state()).unwrap();
    assert_eq!(desired.node_id, 1);
    let others: Vec<u32> = desired.other_nodes().map(|node| node.id).collect();
    assert_eq!(others, [2, 3]);
    assert_eq!(desired.node_name(3), Some(&NodeName::new("node-3")));
    assert_eq!(desired.routes.len(), 3);
    let service = &desired.services[&ServiceId(1)];
    assert_eq!(service.name, "demo/hello:http");
    assert_eq!(service.protocol, 6);
    assert!(service.frontends[0].external && !service.frontends[1].external);
    let nodes: Vec<Option<u32>> = service
        .backends
        .values()
        .map(|backend| match desired.place(backend) {
            Place::Here => Some(1),
            Place::Node(node) => Some(node.id),
            Place::Server(_) | Place::Elsewhere => None,
        })
        .collect();
    assert_eq!(nodes, [Some(1), Some(2), Some(3)]);
    assert_eq!(desired.seed, [0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f]);
}

#[test]
fn backend_of_an_unknown_node_is_elsewhere_until_the_node_is_known() {
    let mut state = state();
    state.services[0].backends[1].node = "node-9".to_owned();
    let desired = check(&state).unwrap();
    let service = Arc::clone(&desired.services[&ServiceId(1)]);
    let backend = &service.backends[&BackendId(12)];
    assert_eq!(desired.place(backend), Place::Elsewhere);

    let node = proto::NodeAddress {
        name: "node-9".to_owned(),
        id: 9,
        address: vec![198, 18, 0, 109].into(),
        ..proto::NodeAddress::default()
    };
    let known = Changes {
        nodes: BTreeMap::from([("node-9".to_owned(), Some(node))]),
        ..Changes::default()
    };
    let (desired, scope) = desired.advance(&known, &own()).unwrap();
    assert!(matches!(desired.place(backend), Place::Node(node) if node.id == 9));
    assert_eq!(scope, Scope::Everything);
}

#[test]
fn change_concerns_what_its_services_have_and_had() {
    let before = check(&state()).unwrap();
    let mut hello = state().services.remove(0);
    hello.frontends.remove(0);
    hello.backends.pop();
    hello.backends.push(backend(1, 4));
    let unchanged = state().services.remove(1);
    let (after, scope) = before
        .advance(&changes(&[(1, Some(hello)), (2, Some(unchanged))]), &own())
        .unwrap();
    let Scope::Services(touched) = scope else {
        panic!("{scope:?}");
    };
    assert_eq!(touched.services, BTreeSet::from([ServiceId(1)]));
    assert_eq!(
        touched.backends,
        [11, 12, 13, 14].map(BackendId).into_iter().collect()
    );
    assert_eq!(touched.frontends.len(), 2);
    assert!(after.vips.is_empty());
    assert_eq!(before.vips.len(), 1, "the state before is what it was");
}

#[test]
fn frontend_and_backends_change_hands_in_one_change() {
    let before = check(&state()).unwrap();
    let mut heir = state().services.remove(0);
    heir.id = 7;
    let (after, _) = before
        .advance(&changes(&[(1, None), (7, Some(heir))]), &own())
        .unwrap();
    let answers: BTreeSet<ServiceId> = after.frontends.values().map(|a| a.service).collect();
    assert_eq!(answers, [2, 7].map(ServiceId).into_iter().collect());
    assert_eq!(after.backends[&BackendId(11)], ServiceId(7));
}

#[test]
fn advanced_state_is_the_one_that_is_checked_whole() {
    let mut advanced = check(&state()).unwrap();
    let mut whole = state();
    let mut renamed = service(2, "names", [10, 96, 0, 2], Some([198, 18, 100, 2]));
    renamed.vpc = 5;
    for (id, change) in [(2, Some(renamed)), (1, None)] {
        advanced = advanced
            .advance(&changes(&[(id, change.clone())]), &own())
            .unwrap()
            .0;
        whole.services.retain(|service| service.id != id);
        whole.services.extend(change);
    }
    assert_eq!(advanced, check(&whole).unwrap());
}

#[test]
fn what_another_service_has_is_refused() {
    let before = check(&state()).unwrap();
    let thief = service(3, "thief", [10, 96, 0, 2], None);
    let refused = before.advance(&changes(&[(3, Some(thief))]), &own());
    assert_eq!(refused.unwrap_err().field, "services[3].frontends[0]");
    let mut thief = service(3, "thief", [10, 96, 0, 3], None);
    thief.backends[0].id = 11;
    let refused = before.advance(&changes(&[(3, Some(thief))]), &own());
    assert_eq!(refused.unwrap_err().field, "services[3].backends");
}

#[test]
fn what_is_left_open_becomes_nat_where_a_server_listens_at_another_port() {
    let forwarding = |forwarding: &str, node: &str, port: u32| {
        let mut state = state();
        let message = &mut state.services[0];
        message.forwarding = forwarding.to_owned();
        for frontend in &mut message.frontends {
            frontend.port = 80;
            frontend.scope = proto::FrontendScope::External.into();
        }
        for backend in &mut message.backends {
            backend.node = node.to_owned();
            backend.port = port;
        }
        check(&state).unwrap().services[&ServiceId(1)].forwarding
    };
    assert_eq!(forwarding("auto", "", 8080), Forwarding::Nat);
    assert_eq!(forwarding("auto", "", 80), Forwarding::Auto);
    assert_eq!(forwarding("dr", "", 8080), Forwarding::Dr);
    // A pod's node knows the port.
    assert_eq!(forwarding("auto", "node-2", 8080), Forwarding::Auto);
}

#[test]
fn service_carries_what_it_asks_for() {
    let mut state = state();
    let message = &mut state.services[0];
    message.scheduler = "wlc".to_owned();
    message.forwarding = "nat".to_owned();
    message.tunnel = "gue".to_owned();
    message.tracking = "always".to_owned();
    message.timeouts = Some(proto::Timeouts {
        established_seconds: 60,
        fin_seconds: 0,
        udp_seconds: 10,
    });
    message.affinity_seconds = 10_800;
    message.external_local = true;
    message.source_ranges = vec!["10.0.0.0/8".to_owned(), "2001:db8::/32".to_owned()];
    message.node_port = 30_080;
    message.health_check_node_port = 30_081;
    message.health_check = Some(crate::examples::health_check());
    message.drain_seconds = 30;
    let desired = check(&state).unwrap();
    let service = &desired.services[&ServiceId(1)];
    assert_eq!(service.scheduler, Scheduler::WeightedLeastConnections);
    assert_eq!(service.forwarding, Forwarding::Nat);
    assert_eq!(service.tunnel, Tunnel::Gue);
    assert!(service.is_always_tracked && service.external_local && !service.internal_local);
    let timeouts = Timeouts {
        established: Duration::from_secs(60),
        closing: Duration::from_secs(120),
        datagrams: Duration::from_secs(10),
    };
    assert_eq!(service.timeouts, timeouts);
    assert_eq!(service.affinity, Some(Duration::from_secs(10_800)));
    assert_eq!(service.source_ranges.len(), 2);
    assert_eq!(service.health_check_node_port, Some(30_081));
    let check = service.health_check.as_ref().unwrap();
    assert_eq!(
        (&check.kind, check.port, check.interval),
        (&HealthCheckKind::Tcp, None, Duration::from_secs(2))
    );
    assert_eq!(service.drain, Some(Duration::from_secs(30)));
    let node_ports: Vec<_> = desired.node_ports.iter().collect();
    assert_eq!(node_ports, [(&(true, 6, 30_080), &ServiceId(1))]);
}

#[test]
fn every_scheduler_is_known_by_its_name() {
    for scheduler in Scheduler::ALL {
        let mut state = state();
        state.services[0].scheduler = scheduler.name().to_owned();
        let desired = check(&state).unwrap();
        assert_eq!(desired.services[&ServiceId(1)].scheduler, scheduler);
    }
}

#[test]
fn announcement_moves_to_another_node() {
    let vip = [198, 18, 100, 1];
    let mut state = state();
    state.announcements.push(announcement(&vip, "node-1"));
    let before = check(&state).unwrap();
    assert!(before.announces(vip.into()));
    let moved = Changes {
        announcements: BTreeMap::from([(vip.to_vec().into(), Some(announcement(&vip, "node-2")))]),
        ..Changes::default()
    };
    let (after, scope) = before.advance(&moved, &own()).unwrap();
    assert!(!after.announces(vip.into()));
    assert_eq!(
        after.announcements[&IpAddr::from(vip)],
        NodeName::new("node-2")
    );
    let Scope::Services(touched) = scope else {
        panic!("{scope:?}");
    };
    let vip = IpAddr::from(vip).into();
    assert_eq!(touched.addresses, [(DEFAULT_NETWORK, vip)].into());
}

fn announcement(address: &[u8], node: &str) -> proto::Announcement {
    proto::Announcement {
        address: address.to_vec().into(),
        node: node.to_owned(),
    }
}

#[test]
fn bad_field_is_named() {
    type Spoil = fn(&mut DataplaneState);
    let cases: &[(&str, Spoil)] = &[
        ("parameters", |s| s.parameters = None),
        ("parameters.hash_seed", |s| {
            parameters(s).hash_seed.truncate(15)
        }),
        ("parameters.vxlan_port", |s| {
            parameters(s).vxlan_port = 65_536
        }),
        ("parameters.cluster_cidrs[0]", |s| {
            parameters(s).cluster_cidrs[0] = "10.244.1.0/16".to_owned();
        }),
        ("nodes", |s| s.nodes[0].name = "somebody".to_owned()),
        ("nodes[node-2].id", |s| s.nodes[1].id = 0),
        ("nodes[node-2].id", |s| s.nodes[1].id = 1),
        ("nodes[node-2].address", |s| {
            s.nodes[1].address = vec![1, 2, 3].into()
        }),
        ("nodes[node-2].address", |s| {
            s.nodes[1].address = s.nodes[0].address.clone()
        }),
        ("services[0].id", |s| s.services[0].id = 0),
        ("services[1].protocol", |s| s.services[0].protocol = 1),
        ("services[1].vpc", |s| s.services[0].vpc = 1 << 24),
        ("services[1].frontends[0].port", |s| {
            s.services[0].frontends[0].port = 0
        }),
        ("services[1].frontends[0].scope", |s| {
            s.services[0].frontends[0].scope = 0
        }),
        ("services[1].frontends[0].address", |s| {
            s.services[0].frontends[0].address = vec![0; 4].into();
        }),
        ("services[1].frontends[0].prefix_length", |s| {
            s.services[0].frontends[0].prefix_length = 33;
        }),
        ("services[1].frontends[0].prefix_length", |s| {
            // 198.18.100.1/28 has host bits set.
            s.services[0].frontends[0].prefix_length = 28;
        }),
        ("services[1].frontends[1].prefix_length", |s| {
            s.services[0].frontends[1].prefix_length = 32;
        }),
        ("services[1].frontends[1]", |s| {
            s.services[0].frontends[1] = s.services[0].frontends[0].clone();
        }),
        ("services[1].backends[2].id", |s| {
            s.services[0].backends[2].id = 11
        }),
        ("services[1].backends[0].state", |s| {
            s.services[0].backends[0].state = 9
        }),
        ("services[1].backends[0].port", |s| {
            s.services[0].backends[0].port = 70_000
        }),
        ("services[1].scheduler", |s| {
            s.services[0].scheduler = "fastest".to_owned()
        }),
        ("services[1].forwarding", |s| {
            s.services[0].forwarding = "teleport".to_owned()
        }),
        ("services[1].tunnel", |s| {
            s.services[0].tunnel = "vxlan".to_owned()
        }),
        ("services[1].tracking", |s| {
            s.services[0].tracking = "never".to_owned()
        }),
        ("services[1].source_ranges[1]", |s| {
            s.services[0].source_ranges = vec!["10.0.0.0/8".to_owned(), "10.0.0.1/8".to_owned()];
        }),
        ("services[1].node_port", |s| {
            s.services[0].node_port = 65_536
        }),
        ("services[2].node_port", |s| {
            s.services[0].node_port = 30_080;
            s.services[1].node_port = 30_080;
        }),
        ("services[1].health_check_node_port", |s| {
            s.services[0].health_check_node_port = 65_536;
        }),
        ("services[1].health_check.kind", |s| {
            health_check(s).kind = "smile".to_owned()
        }),
        ("services[1].health_check.path", |s| {
            let check = health_check(s);
            check.kind = "http".to_owned();
            check.path = "healthz".to_owned();
        }),
        ("services[1].health_check.port", |s| {
            health_check(s).port = 65_536
        }),
        ("services[1].health_check.interval_milliseconds", |s| {
            health_check(s).interval_milliseconds = 0;
        }),
        ("services[1].health_check.timeout_milliseconds", |s| {
            health_check(s).timeout_milliseconds = 0;
        }),
        ("services[1].health_check.rise", |s| {
            health_check(s).rise = 0
        }),
        ("services[1].health_check.fall", |s| {
            health_check(s).fall = 0
        }),
        ("announcements[].address", |s| {
            s.announcements.push(announcement(&[1, 2, 3], "node-1"));
        }),
        ("announcements[198.18.100.1].node", |s| {
            s.announcements.push(announcement(&[198, 18, 100, 1], ""));
        }),
        ("routes[].prefix", |s| s.routes[0].key = None),
        ("routes[10.244.2.0/33].prefix", |s| {
            s.routes[1].key.as_mut().unwrap().prefix = "10.244.2.0/33".to_owned();
        }),
    ];
    fn parameters(state: &mut DataplaneState) -> &mut proto::Parameters {
        state.parameters.as_mut().unwrap()
    }
    fn health_check(state: &mut DataplaneState) -> &mut proto::HealthCheck {
        state.services[0]
            .health_check
            .insert(crate::examples::health_check())
    }
    for (field, spoil) in cases {
        let mut state = state();
        spoil(&mut state);
        let refused = check(&state).expect_err(field);
        assert_eq!(refused.field, *field, "{refused}");
    }
}
