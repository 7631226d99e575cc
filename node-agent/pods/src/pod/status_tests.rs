//! What is said of pods in each of their states.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;
use crate::pod::{Verdict, Wait};
use crate::shim::protocol::ContainerRecord;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn state(name: &str, attempt: u32, phase: Phase) -> ContainerState {
    let record = ContainerRecord {
        id: format!("{name}-{attempt}"),
        name: name.to_owned(),
        attempt,
        backoff_s: 0,
        image: "i".to_owned(),
        image_id: "sha256:1".to_owned(),
        layers: Vec::new(),
        writable_dir: "/w".into(),
        log_path: "/l".into(),
        termination_message: "/t".into(),
        stop_signal: 15,
        created_at: at(0),
    };
    ContainerState { record, phase }
}

fn running() -> Phase {
    Phase::Running {
        pid: 1,
        started_at: at(1),
    }
}

fn exited(code: i32, oom_killed: bool) -> Phase {
    Phase::Exited(Exit {
        started_at: Some(at(1)),
        finished_at: at(5),
        code,
        signal: None,
        oom_killed,
        message: None,
        reason: None,
    })
}

/// The status of a one-container pod; `change` prepares the rest of the view.
fn of(
    pod: serde_json::Value,
    containers: &[ContainerState],
    waits: &[(&str, Wait)],
    verdicts: &[(&str, Verdict)],
) -> PodStatus {
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let waits: BTreeMap<String, Wait> = waits
        .iter()
        .map(|(name, wait)| ((*name).to_owned(), wait.clone()))
        .collect();
    let verdicts: BTreeMap<String, Verdict> = verdicts
        .iter()
        .map(|(id, verdict)| ((*id).to_owned(), verdict.clone()))
        .collect();
    let view = View {
        pod: &pod,
        now: at(6),
        leaving: false,
        alive: true,
        sandbox_retry_at: None,
        containers,
        waits: &waits,
        stopping: &BTreeSet::new(),
        verdicts: &verdicts,
    };
    status(
        &view,
        &StatusContext {
            node_ips: &[IpAddr::from([198, 18, 0, 101])],
            pod_ips: &["10.244.1.2", "2001:db8:a:1::2"].map(|ip| ip.parse().unwrap()),
            start_time: at(0),
            previous: &PodStatus::default(),
            termination_message: &|_| Some("last words".to_owned()),
        },
    )
}

fn pod() -> serde_json::Value {
    json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
           "spec": {"containers": [{"name": "a", "image": "i"}]}})
}

fn condition_of(status: &PodStatus, type_: &str) -> (String, Option<String>) {
    let conditions = status.conditions.as_ref().unwrap();
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .unwrap();
    (found.status.clone(), found.reason.clone())
}

fn waiting_reason(status: &PodStatus) -> String {
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let state = container.state.as_ref().unwrap();
    state.waiting.as_ref().unwrap().reason.clone().unwrap()
}

#[test]
fn running_pod_is_ready_and_has_its_addresses() {
    let status = of(pod(), &[state("a", 0, running())], &[], &[]);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.1.2"));
    let listed = status.pod_ips.iter().flatten().map(|listed| &*listed.ip);
    assert!(listed.eq(["10.244.1.2", "2001:db8:a:1::2"]));
    assert_eq!(status.host_ip.as_deref(), Some("198.18.0.101"));
    for type_ in ["Ready", "ContainersReady", "Initialized", "PodScheduled"] {
        assert_eq!(condition_of(&status, type_).0, "True", "{type_}");
    }
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("fairlead://a-0"));
    assert!(container.ready);
}

#[test]
fn failing_readiness_probe_makes_the_pod_unready_but_running() {
    let verdict = Verdict {
        started: true,
        ready: false,
        failed: None,
    };
    let status = of(pod(), &[state("a", 0, running())], &[], &[("a-0", verdict)]);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let expected = ("False".to_owned(), Some("ContainersNotReady".to_owned()));
    assert_eq!(condition_of(&status, "Ready"), expected);
}

#[test]
fn missing_image_is_an_error_first_and_a_back_off_then() {
    let wait = |failed_at| Wait {
        reason: "ErrImagePull",
        message: "put it there".to_owned(),
        failed_at,
        retry_at: at(60),
        delay_s: 10,
    };
    let status = of(pod(), &[], &[("a", wait(at(6)))], &[]);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting_reason(&status), "ErrImagePull");
    let status = of(pod(), &[], &[("a", wait(at(0)))], &[]);
    assert_eq!(waiting_reason(&status), "ImagePullBackOff");
}

#[test]
fn crashing_container_waits_with_its_last_state() {
    let status = of(pod(), &[state("a", 1, exited(3, false))], &[], &[]);
    assert_eq!(waiting_reason(&status), "CrashLoopBackOff");
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.restart_count, 1);
    let last = container
        .last_state
        .as_ref()
        .unwrap()
        .terminated
        .as_ref()
        .unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    assert_eq!(last.message.as_deref(), Some("last words"));
}

#[test]
fn finished_pods_have_succeeded_or_failed() {
    let mut once = pod();
    once["spec"]["restartPolicy"] = json!("Never");
    let status = of(once.clone(), &[state("a", 0, exited(0, false))], &[], &[]);
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    assert_eq!(
        condition_of(&status, "Ready").1.as_deref(),
        Some("PodCompleted")
    );
    let status = of(once, &[state("a", 0, exited(137, true))], &[], &[]);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let container = &status.container_statuses.unwrap()[0];
    let terminated = container
        .state
        .as_ref()
        .unwrap()
        .terminated
        .as_ref()
        .unwrap();
    assert_eq!(terminated.reason.as_deref(), Some("OOMKilled"));
}

#[test]
fn main_container_waits_for_the_init_containers() {
    let mut with_init = pod();
    with_init["spec"]["initContainers"] = json!([{"name": "i", "image": "i"}]);
    let status = of(with_init, &[state("i", 0, running())], &[], &[]);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting_reason(&status), "PodInitializing");
    assert_eq!(condition_of(&status, "Initialized").0, "False");
}

#[test]
fn closed_readiness_gate_holds_ready_but_not_containers_ready() {
    let mut gated = pod();
    gated["spec"]["readinessGates"] = json!([{"conditionType": "example.com/gate"}]);
    let status = of(gated.clone(), &[state("a", 0, running())], &[], &[]);
    assert_eq!(condition_of(&status, "ContainersReady").0, "True");
    assert_eq!(
        condition_of(&status, "Ready").1.as_deref(),
        Some("ReadinessGatesNotReady")
    );
    gated["status"] = json!({"conditions": [{"type": "example.com/gate", "status": "True"}]});
    let status = of(gated, &[state("a", 0, running())], &[], &[]);
    assert_eq!(condition_of(&status, "Ready").0, "True");
}
