//! What depends on how often nodes are heard, and on what all of them say together.

use std::time::{Duration, Instant};

use fairlead_api::{
    k8s_openapi::api::{
        coordination::v1::Lease,
        core::v1::{Event, Service},
    },
    resource,
};
use fairlead_objects::{Grace, Object, ObjectName};
use fairlead_proto::node::{
    AgentMessage, BackendLoad, Delta, Heartbeat, Loads, agent_message::Message as ToControl,
    control_message::Message as ToAgent,
};
use serde_json::json;

use crate::fixture::{Agent, Control};

async fn balanced(control: &Control, name: &str, address: &str) -> Service {
    control
        .create(json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                "ports": [{"port": 80}],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
        }))
        .await
}

/// Says that a node lives, as agents do, until dropped.
fn heartbeats(agent: &Agent) -> tokio::task::JoinSet<()> {
    let outgoing = agent.outgoing.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut beat = tokio::time::interval(Duration::from_millis(250));
        loop {
            beat.tick().await;
            let message = Some(ToControl::Heartbeat(Heartbeat {}));
            if outgoing.send(AgentMessage { message }).await.is_err() {
                return;
            }
        }
    });
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn vip_is_announced_by_one_node_and_by_another_once_that_is_silent() {
    let control = Control::start().await;
    balanced(&control, "web", "198.18.100.1").await;
    let mut agents = [control.agent("n1").await, control.agent("n2").await];
    let mut beats = [heartbeats(&agents[0]), heartbeats(&agents[1])];
    let lease = ObjectName::new("kube-system", "vip-198.18.100.1");
    let holder = || {
        let lease = control.writer.get::<Lease>(&lease).unwrap();
        lease?.spec?.holder_identity
    };
    let first = control.until("a holder", holder).await;
    let at = usize::from(first == "n2");
    let other = if at == 0 { "n2" } else { "n1" };

    // Its agent stops, as a machine does that dies: without a word.
    beats[at].abort_all();
    let silent = Instant::now();
    control
        .until("another holder", || holder().filter(|now| now == other))
        .await;
    let moved_after = silent.elapsed();
    assert!(
        moved_after >= Duration::from_millis(1_000),
        "{moved_after:?}"
    );

    let heir = &mut agents[1 - at];
    let mut held = heir.snapshot().await.generation;
    let told = heir
        .delta(&mut held, |delta| {
            delta.announcements.iter().any(|one| one.node == other)
        })
        .await;
    assert_eq!(told.announcements[0].address, [198, 18, 100, 1][..]);

    let events = || {
        let snapshot = control.writer.store().snapshot();
        let all = snapshot.range("/registry/core/events/default/", None);
        let events = all.filter_map(|entry| serde_json::from_slice::<Event>(&entry.value).ok());
        events
            .filter_map(|event| event.reason)
            .find(|reason| reason == "AddressMoved")
    };
    control.until("an event", events).await;

    // It comes back; nothing moves for that.
    beats[at] = heartbeats(&agents[at]);
    let transitions = || {
        control
            .writer
            .get::<Lease>(&lease)
            .unwrap()?
            .spec?
            .lease_transitions
    };
    for host in 2..=250 {
        let address = format!("198.18.100.{host}");
        balanced(&control, &format!("web-{host}"), &address).await;
        let lease = ObjectName::new("kube-system", format!("vip-{address}"));
        let holder = || {
            control
                .writer
                .get::<Lease>(&lease)
                .unwrap()?
                .spec?
                .holder_identity
        };
        // Given an address of its own, it is known to live again.
        if control.until("a holder", holder).await == first {
            break;
        }
    }
    assert_eq!((holder().as_deref(), transitions()), (Some(other), Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_told_which_of_them_is_silent_until_it_is_heard_for_a_while() {
    let control = Control::start().await;
    let mut one = control.agent("n1").await;
    let two = control.agent("n2").await;
    let _one = heartbeats(&one);
    let mut beats = heartbeats(&two);
    let mut held = one.snapshot().await.generation;
    let has = |delta: &Delta, silent: bool| {
        let mut nodes = delta.nodes.iter();
        nodes.any(|node| node.name == "n2" && node.silent == silent)
    };
    // The cable is pulled: its session stays open.
    beats.abort_all();
    let pulled = Instant::now();
    one.delta(&mut held, |delta| has(delta, true)).await;
    assert!(pulled.elapsed() >= Duration::from_secs(1));

    beats = heartbeats(&two);
    let back = Instant::now();
    one.delta(&mut held, |delta| has(delta, false)).await;
    assert!(back.elapsed() >= Duration::from_millis(900));
    drop(beats);
}

#[tokio::test(flavor = "multi_thread")]
async fn announcement_ends_with_its_address() {
    let control = Control::start().await;
    let service = balanced(&control, "web", "198.18.100.1").await;
    let agent = control.agent("n1").await;
    let _beats = heartbeats(&agent);
    let lease = ObjectName::new("kube-system", "vip-198.18.100.1");
    let exists = || control.writer.get::<Lease>(&lease).unwrap().map(|_| ());
    control.until("a lease", exists).await;
    control
        .writer
        .delete(
            &resource::SERVICE,
            &service.object_name(),
            None,
            Grace::Immediate,
        )
        .await
        .unwrap();
    let gone = || {
        control
            .writer
            .get::<Lease>(&lease)
            .unwrap()
            .is_none()
            .then_some(())
    };
    control.until("no lease", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_is_told_the_connections_of_others_until_their_session_ends() {
    let control = Control::start().await;
    let (mut one, two) = (control.agent("n1").await, control.agent("n2").await);
    one.snapshot().await;
    let report = |agent: &Agent, connections| {
        let backends = vec![BackendLoad { id: 7, connections }];
        let outgoing = agent.outgoing.clone();
        async move {
            let message = Some(ToControl::Loads(Loads { backends }));
            outgoing.send(AgentMessage { message }).await.unwrap();
        }
    };
    report(&one, 100).await;
    report(&two, 3).await;
    let told = loop {
        if let ToAgent::Loads(loads) = one.next().await {
            break loads;
        }
    };
    let expected = |connections| vec![BackendLoad { id: 7, connections }];
    assert_eq!(told.backends, expected(3));
    drop(two);
    let told = loop {
        if let ToAgent::Loads(loads) = one.next().await {
            break loads;
        }
    };
    assert_eq!(told.backends, expected(0));
}
