//! Source: `printPod` in `k8s.io/kubernetes/pkg/printers/internalversion/printers.go`.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::columns::{AGE, NAME, column, list, number, or_none, text, wide};
use crate::resource::Column;
use crate::table::human_duration;

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", |pod, now| summarize(pod, now).ready.into()),
    column("Status", |pod, now| summarize(pod, now).reason.into()),
    column("Restarts", |pod, now| summarize(pod, now).restarts.into()),
    AGE,
    wide("IP", |pod, _| match text(pod, "/status/podIP") {
        "" => or_none(text(pod, "/status/podIPs/0/ip")),
        address => address.into(),
    }),
    wide("Node", |pod, _| or_none(text(pod, "/spec/nodeName"))),
    wide("Nominated Node", |pod, _| {
        or_none(text(pod, "/status/nominatedNodeName"))
    }),
    wide("Readiness Gates", |pod, _| readiness_gates(pod)),
];

struct Summary {
    ready: String,
    reason: String,
    restarts: String,
}

/// What containers add up to: how often they restarted, and when last.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += number(status, "/restartCount");
        let finished = text(status, "/lastState/terminated/finishedAt")
            .parse()
            .ok();
        self.last = self.last.max(finished);
    }
}

fn summarize(pod: &Value, now: Timestamp) -> Summary {
    let mut reason = match text(pod, "/status/reason") {
        "" => text(pod, "/status/phase").to_owned(),
        told => told.to_owned(),
    };
    let gated = |c: &Value| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated";
    if list(pod, "/status/conditions").iter().any(gated) {
        reason = "SchedulingGated".to_owned();
    }

    let sidecars = list(pod, "/spec/initContainers")
        .iter()
        .filter(|container| is_sidecar(container))
        .count();
    let total = list(pod, "/spec/containers").len() + sidecars;
    let mut init = InitSummary::of(pod);
    let mut restarts = init.restarts;
    if let Some(stuck) = init.reason.take() {
        reason = stuck;
        init.initializing = true;
    }
    let mut ready = init.ready_sidecars;
    if !init.initializing || has_condition(pod, "Initialized") {
        restarts = init.sidecar_restarts;
        let mut running = false;
        for status in list(pod, "/status/containerStatuses").iter().rev() {
            restarts.add(status);
            if let Some(told) = container_reason(status) {
                reason = told;
            } else if status["ready"] == true && status.pointer("/state/running").is_some() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            let is_ready = has_condition(pod, "Ready");
            reason = if is_ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        if text(pod, "/status/reason") == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !matches!(text(pod, "/status/phase"), "Failed" | "Succeeded") {
            reason = "Terminating".to_owned();
        }
    }
    Summary {
        ready: format!("{ready}/{total}"),
        reason,
        restarts: match restarts.last {
            Some(last) if restarts.count != 0 => {
                let ago = human_duration(now.as_second() - last.as_second());
                format!("{} ({ago} ago)", restarts.count)
            }
            _ => restarts.count.to_string(),
        },
    }
}

/// Why a container is not running, if that says more than the pod's phase.
fn container_reason(status: &Value) -> Option<String> {
    let waiting = text(status, "/state/waiting/reason");
    if !waiting.is_empty() {
        return Some(waiting.to_owned());
    }
    terminated_reason(status)
}

fn terminated_reason(status: &Value) -> Option<String> {
    let terminated = status.pointer("/state/terminated")?;
    Some(match text(terminated, "/reason") {
        "" => match number(terminated, "/signal") {
            0 => format!("ExitCode:{}", number(terminated, "/exitCode")),
            signal => format!("Signal:{signal}"),
        },
        told => told.to_owned(),
    })
}

#[derive(Default)]
struct InitSummary {
    reason: Option<String>,
    initializing: bool,
    restarts: Restarts,
    sidecar_restarts: Restarts,
    ready_sidecars: usize,
}

impl InitSummary {
    fn of(pod: &Value) -> Self {
        let mut summary = Self::default();
        let containers = list(pod, "/spec/initContainers");
        let statuses = list(pod, "/status/initContainerStatuses");
        for (position, status) in statuses.iter().enumerate() {
            summary.restarts.add(status);
            let declared = containers.iter().find(|c| c["name"] == status["name"]);
            let sidecar = declared.is_some_and(is_sidecar);
            if sidecar {
                summary.sidecar_restarts.add(status);
            }
            let terminated = status.pointer("/state/terminated");
            if terminated.is_some_and(|t| number(t, "/exitCode") == 0) {
                continue;
            }
            if sidecar && status["started"] == true {
                summary.ready_sidecars += usize::from(status["ready"] == true);
                continue;
            }
            let waiting = text(status, "/state/waiting/reason");
            let told = match terminated_reason(status) {
                Some(why) => why,
                None if !matches!(waiting, "" | "PodInitializing") => waiting.to_owned(),
                None => format!("{position}/{}", containers.len()),
            };
            summary.reason = Some(format!("Init:{told}"));
            break;
        }
        summary
    }
}

fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    list(pod, "/status/conditions")
        .iter()
        .any(|c| c["type"] == kind && c["status"] == "True")
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return or_none("");
    }
    let open = gates
        .iter()
        .filter(|gate| has_condition(pod, text(gate, "/conditionType")))
        .count();
    format!("{open}/{}", gates.len()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(pod: Value, ready: &str, status: &str, restarts: &str) {
        let now = "2026-01-01T01:00:00Z".parse().expect("an instant");
        let summary = summarize(&pod, now);
        assert_eq!(
            (
                summary.ready.as_str(),
                summary.reason.as_str(),
                summary.restarts.as_str()
            ),
            (ready, status, restarts)
        );
    }

    fn pod(phase: &str, statuses: Value) -> Value {
        json!({
            "metadata": { "name": "a" },
            "spec": { "containers": [{ "name": "a" }] },
            "status": { "phase": phase, "containerStatuses": statuses },
        })
    }

    #[test]
    fn the_status_is_the_most_telling_of_phase_and_containers() {
        check(pod("Pending", json!([])), "0/1", "Pending", "0");
        let running = json!([{ "ready": true, "restartCount": 0, "state": { "running": {} } }]);
        check(pod("Running", running.clone()), "1/1", "Running", "0");
        let backing_off = json!([{
            "ready": false, "restartCount": 3,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "finishedAt": "2026-01-01T00:55:00Z" } },
        }]);
        check(
            pod("Running", backing_off),
            "0/1",
            "CrashLoopBackOff",
            "3 (5m ago)",
        );
        let pulling = json!([{ "state": { "waiting": { "reason": "ErrImagePull" } } }]);
        check(pod("Pending", pulling), "0/1", "ErrImagePull", "0");
        let killed = json!([{ "state": { "terminated": { "exitCode": 137, "signal": 9 } } }]);
        check(pod("Failed", killed), "0/1", "Signal:9", "0");
        let done = json!([{ "state": { "terminated": { "exitCode": 0, "reason": "Completed" } } }]);
        check(pod("Succeeded", done), "0/1", "Completed", "0");
        let mut leaving = pod("Running", running);
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:59:00Z".into();
        check(leaving, "1/1", "Terminating", "0");
    }

    #[test]
    fn init_containers_are_counted_until_they_are_done() {
        let mut initializing = pod(
            "Pending",
            json!([{ "state": { "waiting": { "reason": "PodInitializing" } } }]),
        );
        initializing["spec"]["initContainers"] = json!([{ "name": "i" }, { "name": "j" }]);
        initializing["status"]["initContainerStatuses"] = json!([
            { "name": "i", "state": { "terminated": { "exitCode": 0 } } },
            { "name": "j", "restartCount": 1, "state": { "running": {} } },
        ]);
        check(initializing.clone(), "0/1", "Init:1/2", "1");
        initializing["status"]["initContainerStatuses"][1]["state"] =
            json!({ "terminated": { "exitCode": 2, "reason": "Error" } });
        check(initializing, "0/1", "Init:Error", "1");
    }

    #[test]
    fn a_running_sidecar_counts_as_a_container() {
        let mut with_sidecar = pod(
            "Running",
            json!([{ "ready": true, "state": { "running": {} } }]),
        );
        with_sidecar["spec"]["initContainers"] =
            json!([{ "name": "s", "restartPolicy": "Always" }]);
        with_sidecar["status"]["initContainerStatuses"] =
            json!([{ "name": "s", "started": true, "ready": true, "state": { "running": {} } }]);
        check(with_sidecar, "2/2", "Running", "0");
    }
}
