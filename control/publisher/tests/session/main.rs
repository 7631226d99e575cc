//! A real store, a real gRPC server with mutual TLS, and the agent's half of the conversation.

mod announcements;
mod departures;
mod fixture;

use std::time::Duration;

use fairlead_api::{
    Generation, NodeName,
    k8s_openapi::api::{
        coordination::v1::Lease,
        core::v1::{Event, Node, Pod, Service},
    },
    resource,
};
use fairlead_objects::{Grace, Object, ObjectName};
use fairlead_proto::node::{
    Acknowledgement, Heartbeat, OpenTunnel, PodGone, PodStatus, RenewRequest, TunnelFrame,
    agent_message::Message as ToControl, control_message::Message as ToAgent,
    node_client::NodeClient,
};
use fairlead_publisher::OpenError;
use serde_json::json;
use tonic::Code;

use crate::fixture::{Agent, Control, DEADLINE, within};

#[tokio::test(flavor = "multi_thread")]
async fn agent_gets_a_snapshot_then_deltas_and_its_acknowledgements_are_known() {
    let control = Control::start().await;
    let mut agent = control.agent("n1").await;
    let snapshot = agent.snapshot().await;
    assert_eq!(
        snapshot.dataplane.unwrap().parameters.unwrap().vxlan_port,
        4789
    );
    let mut held = snapshot.generation;

    let pod = control.pod("one", "n1").await;
    control.pod("elsewhere", "n2").await;
    let delta = agent.delta(&mut held, |delta| !delta.pods.is_empty()).await;
    let published: Pod = serde_json::from_slice(&delta.pods[0].pod_json).unwrap();
    assert_eq!((delta.pods.len(), published.uid()), (1, pod.uid()));

    control
        .create::<Service>(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]},
        }))
        .await;
    let delta = agent
        .delta(&mut held, |delta| !delta.services.is_empty())
        .await;
    assert_eq!(delta.services[0].name, "web");
    assert!(delta.services[0].id > 0);

    let generation = Generation(held);
    control
        .publisher
        .applied(generation, DEADLINE)
        .await
        .unwrap();
    let status = control.publisher.status();
    assert_eq!((status[0].node.as_str(), status[0].connected), ("n1", true));
    assert!(status[0].acknowledged_generation >= held, "{status:?}");
    let beyond = Generation(u64::MAX);
    assert!(
        control
            .publisher
            .applied(beyond, Duration::from_millis(10))
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_the_same_after_a_restart_of_the_session() {
    let control = Control::start().await;
    control
        .create::<Service>(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]},
        }))
        .await;
    let id = async || {
        let mut agent = control.agent("n1").await;
        let mut snapshot = agent.snapshot().await;
        let mut held = snapshot.generation;
        let mut services = snapshot.dataplane.take().unwrap().services;
        if services.is_empty() {
            services = agent
                .delta(&mut held, |delta| !delta.services.is_empty())
                .await
                .services;
        }
        services[0].id
    };
    assert_eq!(id().await, id().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_keeps_what_others_wrote_to_the_node() {
    let control = Control::start().await;
    let name = ObjectName::cluster("n1");
    drop(control.agent("n1").await);
    let node: Node = control
        .until("node", || control.writer.get(&name).unwrap())
        .await;
    let cordon = |node: &mut Node| {
        node.spec.get_or_insert_default().unschedulable = Some(true);
        node.metadata
            .labels
            .get_or_insert_default()
            .insert("team".to_owned(), "a".to_owned());
    };
    control
        .writer
        .update::<Node>(&name, None, cordon)
        .await
        .unwrap();
    let _agent = control.agent("n1").await;
    let again: Node = control.writer.get(&name).unwrap().unwrap();
    assert_eq!(again.uid(), node.uid());
    assert_eq!(again.spec.unwrap().unschedulable, Some(true));
    let labels = again.metadata.labels.unwrap();
    assert_eq!(
        (
            labels["team"].as_str(),
            labels["kubernetes.io/hostname"].as_str()
        ),
        ("a", "n1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_written_only_about_the_nodes_own() {
    let control = Control::start().await;
    let mut agent = control.agent("n1").await;
    agent.snapshot().await;
    let lease = ObjectName::new("kube-node-lease", "n1");
    let renewed = || {
        control
            .writer
            .get::<Lease>(&lease)
            .unwrap()?
            .spec?
            .renew_time
    };
    let first = control.until("lease", renewed).await;
    agent.say(ToControl::Heartbeat(Heartbeat {})).await;
    control
        .until("renewal", || renewed().filter(|time| *time != first))
        .await;

    let (own, other) = (
        control.pod("own", "n1").await,
        control.pod("other", "n2").await,
    );
    let running = json!({"phase": "Running", "podIP": "10.244.0.2"}).to_string();
    for pod in [&other, &own] {
        let report = PodStatus {
            namespace: "default".to_owned(),
            name: pod.object_name().name,
            uid: pod.uid().to_owned(),
            status_json: running.clone().into(),
        };
        agent.say(ToControl::PodStatus(report)).await;
    }
    let phase = |pod: &Pod| {
        control
            .writer
            .get::<Pod>(&pod.object_name())
            .unwrap()?
            .status?
            .phase
    };
    control
        .until("status", || phase(&own).filter(|phase| phase == "Running"))
        .await;
    assert_ne!(phase(&other).as_deref(), Some("Running"));

    let event = fairlead_proto::node::Event {
        kind: "Pod".to_owned(),
        namespace: "default".to_owned(),
        name: "own".to_owned(),
        uid: own.uid().to_owned(),
        r#type: "Warning".to_owned(),
        reason: "BackOff".to_owned(),
        message: "again".to_owned(),
    };
    for _ in 0..3 {
        agent.say(ToControl::Event(event.clone())).await;
    }
    control
        .until("counted event", || {
            let snapshot = control.writer.store().snapshot();
            let mut events = snapshot
                .range("/registry/core/events/default/", None)
                .map(|entry| serde_json::from_slice::<Event>(&entry.value).unwrap());
            events.find(|event| event.count == Some(3))
        })
        .await;

    let gone = |pod: &Pod| PodGone {
        namespace: "default".to_owned(),
        name: pod.object_name().name,
        uid: pod.uid().to_owned(),
    };
    control
        .writer
        .delete(&resource::POD, &own.object_name(), None, Grace::Pod)
        .await
        .unwrap();
    assert!(
        control
            .writer
            .get::<Pod>(&own.object_name())
            .unwrap()
            .unwrap()
            .is_terminating()
    );
    agent.say(ToControl::PodGone(gone(&own))).await;
    control
        .until("pod is gone", || {
            control
                .writer
                .get::<Pod>(&own.object_name())
                .unwrap()
                .is_none()
                .then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnel_carries_data_and_the_reason_of_a_failure() {
    let control = Control::start().await;
    let mut agent = control.agent("n1").await;
    agent.snapshot().await;
    let node = NodeName::new("n1");
    let asked = control.publisher.open(&node, "logs", json!({"pod": "one"}));
    let answer = async {
        let OpenTunnel {
            tunnel_id,
            kind,
            request_json,
        } = loop {
            if let ToAgent::OpenTunnel(open) = agent.next().await {
                break open;
            }
        };
        assert_eq!(
            (kind.as_str(), &request_json[..]),
            ("logs", &br#"{"pod":"one"}"#[..])
        );
        let frames = [
            TunnelFrame {
                tunnel_id,
                data: "one ".into(),
                ..Default::default()
            },
            TunnelFrame {
                data: "two".into(),
                ..Default::default()
            },
            TunnelFrame {
                error: "no more".to_owned(),
                ..Default::default()
            },
        ];
        agent
            .client
            .tunnel(tokio_stream::iter(frames))
            .await
            .unwrap()
            .into_inner()
    };
    let (frames, _answers) = tokio::join!(asked, answer);
    let mut frames = frames.unwrap();
    let mut received = Vec::new();
    while let Some(frame) = within("a frame", frames.recv()).await {
        received.push(frame.map(|data| String::from_utf8(data.to_vec()).unwrap()));
    }
    assert_eq!(
        received,
        [
            Ok("one ".to_owned()),
            Ok("two".to_owned()),
            Err("no more".to_owned())
        ]
    );

    let unknown = control
        .publisher
        .open(&NodeName::new("n9"), "logs", json!({}))
        .await;
    assert_eq!(
        unknown.unwrap_err(),
        OpenError::NotConnected("n9".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn node_whose_session_ends_while_it_is_asked_is_not_connected() {
    let control = Control::start().await;
    let mut agent = control.agent("n1").await;
    agent.snapshot().await;
    let node = NodeName::new("n1");
    let asked = control.publisher.open(&node, "logs", json!({}));
    let leave = async {
        while !matches!(agent.next().await, ToAgent::OpenTunnel(_)) {}
        drop(agent);
    };
    let (frames, ()) = within("an answer", async { tokio::join!(asked, leave) }).await;
    assert_eq!(
        frames.unwrap_err(),
        OpenError::NotConnected("n1".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_dies_without_a_word_is_silent_and_not_waited_for() {
    let control = Control::start().await;
    let mut agent = control.agent("n1").await;
    agent.snapshot().await;
    // Its connection stays, as that of a machine without power does, and nothing more is said.
    let frames = control
        .publisher
        .open(&NodeName::new("n1"), "query", json!({}))
        .await;
    assert_eq!(frames.unwrap_err(), OpenError::Silent("n1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_is_renewed_for_the_node_whose_certificate_is_shown() {
    let control = Control::start().await;
    for (common_name, expected) in [
        (Some("system:node:n1"), Ok("n1".to_owned())),
        (Some("kubernetes-admin"), Err(Code::PermissionDenied)),
        (None, Err(Code::Unauthenticated)),
    ] {
        let mut client = NodeClient::new(control.channel(common_name).await);
        let answer = client.renew(RenewRequest::default()).await;
        let renewed = answer.map(|answer| answer.into_inner().certificate_pem);
        assert_eq!(
            renewed.map_err(|status| status.code()),
            expected,
            "{common_name:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_state_is_followed_by_the_whole_state() {
    let control = Control::start().await;
    let mut agent = control.agent("n1").await;
    let snapshot = agent.snapshot().await;
    let refusal = Acknowledgement {
        generation: snapshot.generation,
        failed_generation: snapshot.generation + 1,
        error: "no room".to_owned(),
    };
    agent.say(ToControl::Acknowledgement(refusal)).await;
    loop {
        if let ToAgent::Snapshot(again) = agent.next().await {
            assert!(again.generation >= snapshot.generation);
            break;
        }
    }
    assert_eq!(control.publisher.status()[0].error, "no room");
}

#[tokio::test(flavor = "multi_thread")]
async fn second_session_of_a_node_ends_the_first() {
    let control = Control::start().await;
    let mut first = control.agent("n1").await;
    first.snapshot().await;
    let mut second = control.agent("n1").await;
    second.snapshot().await;
    let ended = within("the end of the first", async {
        loop {
            if let Err(status) = first.incoming.message().await {
                return status;
            }
        }
    });
    assert_eq!(ended.await.code(), Code::Aborted);
    assert!(control.publisher.status()[0].connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_node_with_its_own_certificate_gets_a_session() {
    let control = Control::start().await;
    for (certificate, expected) in [
        (None, Code::Unauthenticated),
        (Some("admin"), Code::PermissionDenied),
        (Some("system:node:n2"), Code::PermissionDenied),
    ] {
        let channel = control.channel(certificate).await;
        let refused = Agent::connect(channel, "n1")
            .await
            .err()
            .expect("no session");
        assert_eq!(refused.code(), expected, "{certificate:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn member_that_does_not_lead_refuses_sessions() {
    let mut control = Control::start_with(false).await;
    let channel = control.channel(Some("system:node:n1")).await;
    let refused = Agent::connect(channel, "n1")
        .await
        .err()
        .expect("no session");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    control.tasks.abort_all();
}
