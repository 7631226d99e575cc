//! Tables of pods and what the plan says of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::super::{ProbeFailure, ProbeKind, Verdict, Wait};
use super::*;
use crate::shim::protocol::ContainerRecord;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// A pod, what is known of its containers, and the present time.
struct Case {
    pod: Pod,
    now: i64,
    leaving: bool,
    alive: bool,
    containers: Vec<ContainerState>,
    waits: BTreeMap<String, Wait>,
    stopping: BTreeSet<String>,
    verdicts: BTreeMap<String, Verdict>,
}

fn case(spec: serde_json::Value) -> Case {
    Case {
        pod: serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap(),
        now: 0,
        leaving: false,
        alive: true,
        containers: Vec::new(),
        waits: BTreeMap::new(),
        stopping: BTreeSet::new(),
        verdicts: BTreeMap::new(),
    }
}

impl Case {
    fn now(mut self, now: i64) -> Self {
        self.now = now;
        self
    }

    fn leaving(mut self) -> Self {
        self.leaving = true;
        self
    }

    fn without_sandbox(mut self) -> Self {
        self.alive = false;
        self
    }

    fn run(mut self, name: &str, attempt: u32, backoff_s: u32, phase: Phase) -> Self {
        let record = ContainerRecord {
            id: format!("{name}-{attempt}"),
            name: name.to_owned(),
            attempt,
            backoff_s,
            image: String::new(),
            image_id: String::new(),
            layers: Vec::new(),
            writable_dir: "/w".into(),
            log_path: "/l".into(),
            termination_message: "/t".into(),
            stop_signal: 15,
            created_at: at(0),
        };
        self.containers.push(ContainerState { record, phase });
        self
    }

    fn running(self, name: &str) -> Self {
        self.run(
            name,
            0,
            0,
            Phase::Running {
                pid: 1,
                started_at: at(0),
            },
        )
    }

    fn exited(self, name: &str, attempt: u32, backoff_s: u32, code: i32, finished: i64) -> Self {
        let exit = Exit {
            started_at: Some(at(finished - 1)),
            finished_at: at(finished),
            code,
            signal: None,
            oom_killed: false,
            message: None,
            reason: None,
        };
        self.run(name, attempt, backoff_s, Phase::Exited(exit))
    }

    fn verdict(mut self, id: &str, verdict: Verdict) -> Self {
        self.verdicts.insert(id.to_owned(), verdict);
        self
    }

    fn stopping(mut self, id: &str) -> Self {
        self.stopping.insert(id.to_owned());
        self
    }

    fn plan(&self) -> Plan {
        plan(&self.view())
    }

    fn view(&self) -> View<'_> {
        View {
            pod: &self.pod,
            now: at(self.now),
            leaving: self.leaving,
            alive: self.alive,
            sandbox_retry_at: None,
            containers: &self.containers,
            waits: &self.waits,
            stopping: &self.stopping,
            verdicts: &self.verdicts,
        }
    }

    #[track_caller]
    fn expect(self, actions: &[Action]) {
        assert_eq!(self.plan().actions, actions);
    }
}

fn start(name: &str, attempt: u32, backoff_s: u32) -> Action {
    Action::Start {
        name: name.to_owned(),
        attempt,
        backoff_s,
    }
}

fn stop(name: &str, grace_s: i64, reason: StopReason) -> Action {
    Action::Stop {
        name: name.to_owned(),
        id: format!("{name}-0"),
        grace_s,
        reason,
    }
}

fn one(policy: &str) -> serde_json::Value {
    json!({"restartPolicy": policy, "containers": [{"name": "a"}]})
}

fn with_init() -> serde_json::Value {
    json!({
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}, {"name": "b"}],
    })
}

#[test]
fn new_pod_gets_a_sandbox_before_anything_else() {
    case(one("Always"))
        .without_sandbox()
        .expect(&[Action::RunSandbox]);
}

#[test]
fn all_main_containers_start_at_once() {
    case(json!({"containers": [{"name": "a"}, {"name": "b"}]}))
        .expect(&[start("a", 0, 0), start("b", 0, 0)]);
}

#[test]
fn init_containers_and_sidecars_start_in_order() {
    case(with_init()).expect(&[start("i", 0, 0)]);
    case(with_init()).running("i").expect(&[]);
    case(with_init())
        .exited("i", 0, 0, 0, 0)
        .expect(&[start("s", 0, 0)]);
    case(with_init())
        .exited("i", 0, 0, 0, 0)
        .running("s")
        .expect(&[start("a", 0, 0), start("b", 0, 0)]);
}

#[test]
fn sidecar_gates_on_its_startup_probe() {
    let starting = Verdict {
        started: false,
        ready: false,
        failed: None,
    };
    case(with_init())
        .exited("i", 0, 0, 0, 0)
        .running("s")
        .verdict("s-0", starting)
        .expect(&[]);
}

#[test]
fn init_container_is_not_run_again_once_the_pods_own_have_run() {
    case(with_init())
        .running("s")
        .running("a")
        .running("b")
        .expect(&[]);
}

#[test]
fn failed_init_container_restarts_or_fails_the_pod() {
    case(with_init())
        .exited("i", 0, 0, 1, 0)
        .expect(&[start("i", 1, 0)]);
    let mut never = with_init();
    never["restartPolicy"] = json!("Never");
    let failed = case(never).exited("i", 0, 0, 1, 0);
    assert_eq!(outcome(&failed.view()), Some(Outcome::Failed));
    failed.expect(&[Action::StopSandbox]);
}

#[test]
fn restart_policy_decides_what_runs_again() {
    case(one("Always"))
        .exited("a", 0, 0, 0, 0)
        .expect(&[start("a", 1, 0)]);
    case(one("OnFailure"))
        .exited("a", 0, 0, 1, 0)
        .expect(&[start("a", 1, 0)]);
    case(one("OnFailure"))
        .exited("a", 0, 0, 0, 0)
        .expect(&[Action::StopSandbox]);
    case(one("Never"))
        .exited("a", 0, 0, 1, 0)
        .expect(&[Action::StopSandbox]);
}

#[test]
fn crash_loop_backs_off_from_ten_seconds_to_five_minutes() {
    // (attempt that exited, its back-off, delay before the next)
    let steps = [
        (0, 0, 0),
        (1, 0, 10),
        (2, 10, 20),
        (3, 20, 40),
        (6, 160, 300),
        (7, 300, 300),
    ];
    for (attempt, backoff_s, delay) in steps {
        let exited = || case(one("Always")).exited("a", attempt, backoff_s, 1, 100);
        if delay > 0 {
            let early = exited().now(100 + delay - 1).plan();
            assert_eq!(early.actions, [], "attempt {attempt}");
            assert_eq!(early.wake_at, Some(at(100 + delay)));
            assert_eq!(early.backing_off.len(), 1);
        }
        let expected = start("a", attempt + 1, delay as u32);
        exited().now(100 + delay).expect(&[expected]);
    }
}

#[test]
fn healthy_run_resets_the_crash_loop() {
    let mut long = case(one("Always")).exited("a", 7, 300, 1, 700);
    if let Phase::Exited(exit) = &mut long.containers[0].phase {
        exit.started_at = Some(at(0));
    }
    long.now(700).expect(&[start("a", 8, 0)]);
}

#[test]
fn container_that_could_not_start_waits() {
    let mut waiting = case(one("Always"));
    let wait = Wait {
        reason: "ErrImagePull",
        message: String::new(),
        failed_at: at(0),
        retry_at: at(10),
        delay_s: 10,
    };
    waiting.waits.insert("a".to_owned(), wait);
    let plan = waiting.plan();
    assert_eq!((plan.actions, plan.wake_at), (vec![], Some(at(10))));
    waiting.now(10).expect(&[start("a", 0, 0)]);
}

#[test]
fn failed_liveness_probe_stops_the_container_once() {
    let failed = Verdict {
        started: true,
        ready: true,
        failed: Some(ProbeFailure {
            kind: ProbeKind::Liveness,
            grace_s: Some(5),
        }),
    };
    let case = || {
        case(one("Always"))
            .running("a")
            .verdict("a-0", failed.clone())
    };
    case().expect(&[stop("a", 5, StopReason::Probe(ProbeKind::Liveness))]);
    case().stopping("a-0").expect(&[]);
}

#[test]
fn leaving_pod_stops_its_own_containers_then_sidecars_then_all_is_removed() {
    let leaving = || case(with_init()).leaving().exited("i", 0, 0, 0, 0);
    let both = [
        stop("a", 30, StopReason::Leaving),
        stop("b", 30, StopReason::Leaving),
    ];
    leaving()
        .running("s")
        .running("a")
        .running("b")
        .expect(&both);
    leaving()
        .running("s")
        .running("a")
        .stopping("a-0")
        .expect(&[]);
    leaving()
        .running("s")
        .exited("a", 0, 0, 0, 0)
        .expect(&[stop("s", 30, StopReason::Leaving)]);
    leaving()
        .exited("s", 0, 0, 0, 0)
        .exited("a", 0, 0, 0, 0)
        .expect(&[Action::TearDown]);
}

#[test]
fn grace_is_the_deletions_then_the_pods_and_never_under_two_seconds() {
    let mut deleted = case(one("Always")).leaving().running("a");
    deleted.pod.metadata.deletion_grace_period_seconds = Some(0);
    deleted.expect(&[stop("a", 2, StopReason::Leaving)]);
    let spec = json!({"terminationGracePeriodSeconds": 7, "containers": [{"name": "a"}]});
    case(spec)
        .leaving()
        .running("a")
        .expect(&[stop("a", 7, StopReason::Leaving)]);
}

#[test]
fn finished_pod_stops_its_sidecars_and_its_sandbox() {
    let mut never = with_init();
    never["restartPolicy"] = json!("Never");
    let done = || {
        case(never.clone())
            .exited("a", 0, 0, 0, 0)
            .exited("b", 0, 0, 0, 0)
    };
    done()
        .running("s")
        .expect(&[stop("s", 30, StopReason::Done)]);
    done()
        .exited("s", 0, 0, 0, 0)
        .expect(&[Action::StopSandbox]);
    done().exited("s", 0, 0, 0, 0).without_sandbox().expect(&[]);
}

#[test]
fn runs_before_the_previous_one_are_forgotten() {
    case(one("Always"))
        .exited("a", 0, 0, 1, 0)
        .exited("a", 1, 0, 1, 0)
        .run(
            "a",
            2,
            10,
            Phase::Running {
                pid: 1,
                started_at: at(0),
            },
        )
        .expect(&[Action::Remove {
            id: "a-0".to_owned(),
        }]);
}
