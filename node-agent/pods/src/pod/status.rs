//! What is said about a pod: phase, conditions, container states, as a kubelet says them.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::{Outcome, outcome, restart_due, restart_policy, restarts};
use super::{Role, View};
use crate::shim::protocol::{ContainerState, Exit, Phase};
use crate::spec::QosClass;

/// For this long a failed image is `ErrImagePull`; then it is `ImagePullBackOff`.
const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(1);

/// What a status needs beyond the view.
pub(crate) struct StatusContext<'a> {
    /// The one the node is reached at first.
    pub(crate) node_ips: &'a [IpAddr],
    /// The primary family's first; none before the pod has its network.
    pub(crate) pod_ips: &'a [IpAddr],
    pub(crate) start_time: Timestamp,
    /// What was said last: conditions keep their transition times, others' conditions stay.
    pub(crate) previous: &'a PodStatus,
    /// The termination message of a container run, by id.
    pub(crate) termination_message: &'a dyn Fn(&ContainerState) -> Option<String>,
}

/// The pod's status.
pub(crate) fn status(view: &View<'_>, context: &StatusContext<'_>) -> PodStatus {
    let statuses = |wanted: fn(Role) -> bool| -> Vec<ContainerStatus> {
        view.roles()
            .filter(|(role, _)| wanted(*role))
            .map(|(role, container)| container_status(view, context, role, container))
            .collect()
    };
    let init = statuses(|role| role != Role::Main);
    let main = statuses(|role| role == Role::Main);
    let outcome = outcome(view);
    let phase = phase(view, outcome);
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions(view, context, outcome, &main)),
        init_container_statuses: Some(init).filter(|statuses| !statuses.is_empty()),
        container_statuses: Some(main),
        host_ip: context.node_ips.first().map(ToString::to_string),
        host_ips: listed(context.node_ips, |ip| HostIP { ip }),
        pod_ip: context.pod_ips.first().map(ToString::to_string),
        pod_ips: listed(context.pod_ips, |ip| PodIP { ip }),
        start_time: Some(Time(context.start_time)),
        qos_class: Some(QosClass::of(view.pod).name().to_owned()),
        observed_generation: view.pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// Addresses as a list of the API's, which is absent rather than empty.
fn listed<T>(addresses: &[IpAddr], entry: impl Fn(String) -> T) -> Option<Vec<T>> {
    let entries = addresses.iter().map(|address| entry(address.to_string()));
    Some(entries.collect()).filter(|list: &Vec<T>| !list.is_empty())
}

fn phase(view: &View<'_>, outcome: Option<Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Succeeded) => "Succeeded",
        Some(Outcome::Failed) => "Failed",
        None => {
            // Pending until every container of the pod's own has been started once.
            let begun =
                view.roles()
                    .filter(|(role, _)| *role == Role::Main)
                    .all(|(_, container)| {
                        view.latest(&container.name)
                            .is_some_and(|state| !matches!(state.phase, Phase::Creating))
                    });
            if begun { "Running" } else { "Pending" }
        }
    }
}

fn container_status(
    view: &View<'_>,
    context: &StatusContext<'_>,
    role: Role,
    container: &Container,
) -> ContainerStatus {
    let name = &container.name;
    let latest = view.latest(name);
    let mut status = ContainerStatus {
        name: name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: Some(false),
        ..ContainerStatus::default()
    };
    if let Some(state) = latest {
        status.container_id = Some(container_id(state));
        status.image = state.record.image.clone();
        status.image_id = state.record.image_id.clone();
        status.restart_count = i32::try_from(state.record.attempt).unwrap_or(i32::MAX);
    }
    let terminated = |state: &ContainerState, exit: &Exit| ApiState {
        terminated: Some(terminated(
            state,
            exit,
            (context.termination_message)(state),
        )),
        ..ApiState::default()
    };
    let exited = |state: Option<&ContainerState>| match state.map(|state| (state, &state.phase)) {
        Some((state, Phase::Exited(exit))) => Some(terminated(state, exit)),
        _ => None,
    };
    let before = exited(view.previous(name));
    let (state, last_state) = match latest.map(|state| (state, &state.phase)) {
        Some((state, Phase::Running { started_at, .. })) => {
            let verdict = view.verdict(&state.record.id);
            status.started = Some(verdict.started);
            status.ready = match role {
                Role::Init => false,
                Role::Sidecar | Role::Main => verdict.started && verdict.ready,
            };
            let running = ContainerStateRunning {
                started_at: Some(Time(*started_at)),
            };
            (
                ApiState {
                    running: Some(running),
                    ..ApiState::default()
                },
                before,
            )
        }
        Some((state, Phase::Exited(exit))) => {
            let again = restarts(restart_policy(view.pod), role, exit) && !view.leaving;
            let (due, backoff_s) = restart_due(state, exit);
            // An init container that did its work is ready, as upstream counts.
            status.ready = role == Role::Init && exit.code == 0;
            if let (true, Some(wait)) = (again, view.waits.get(name)) {
                (
                    waiting(wait_reason(wait, view.now), &wait.message),
                    exited(Some(state)),
                )
            } else if again && due > view.now {
                let message = format!(
                    "back-off {backoff_s}s restarting failed container={name} pod={}",
                    pod_name(view)
                );
                (waiting("CrashLoopBackOff", &message), exited(Some(state)))
            } else {
                (terminated(state, exit), before)
            }
        }
        Some((_, Phase::Creating)) => (waiting("ContainerCreating", ""), before),
        None => (not_created(view, role, name), None),
    };
    status.state = Some(state);
    status.last_state = Some(last_state.unwrap_or_default());
    status
}

fn not_created(view: &View<'_>, role: Role, name: &str) -> ApiState {
    if let Some(wait) = view.waits.get(name) {
        return waiting(wait_reason(wait, view.now), &wait.message);
    }
    let initializing = role == Role::Main && !initialized(view);
    let has_init = view.roles().any(|(role, _)| role != Role::Main);
    let blocked = initializing || (role != Role::Main && view.alive && has_init);
    waiting(
        if blocked {
            "PodInitializing"
        } else {
            "ContainerCreating"
        },
        "",
    )
}

fn wait_reason(wait: &super::Wait, now: Timestamp) -> &'static str {
    let shown = now.duration_since(wait.failed_at) < PULL_ERROR_SHOWN;
    if wait.reason == "ErrImagePull" && !shown {
        "ImagePullBackOff"
    } else {
        wait.reason
    }
}

fn waiting(reason: &str, message: &str) -> ApiState {
    ApiState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()).filter(|message| !message.is_empty()),
        }),
        ..ApiState::default()
    }
}

fn terminated(
    state: &ContainerState,
    exit: &Exit,
    message: Option<String>,
) -> ContainerStateTerminated {
    let reason = match (&exit.reason, exit.oom_killed, exit.code) {
        (Some(reason), _, _) => reason.as_str(),
        (None, true, _) => "OOMKilled",
        (None, false, 0) => "Completed",
        (None, false, _) => "Error",
    };
    ContainerStateTerminated {
        container_id: Some(container_id(state)),
        exit_code: exit.code,
        // Upstream leaves `signal` to runtimes that report one apart from the code.
        signal: None,
        reason: Some(reason.to_owned()),
        message: exit.message.clone().or(message),
        started_at: exit.started_at.map(Time),
        finished_at: Some(Time(exit.finished_at)),
    }
}

fn container_id(state: &ContainerState) -> String {
    format!("fairlead://{}", state.record.id)
}

fn pod_name(view: &View<'_>) -> String {
    let metadata = &view.pod.metadata;
    format!(
        "{}_{}({})",
        metadata.name.as_deref().unwrap_or_default(),
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.uid.as_deref().unwrap_or_default(),
    )
}

/// Whether all init containers have done their work and all sidecars have started.
fn initialized(view: &View<'_>) -> bool {
    let begun = view
        .roles()
        .any(|(role, container)| role == Role::Main && view.latest(&container.name).is_some());
    begun
        || view.roles().all(|(role, container)| match role {
            Role::Main => true,
            Role::Sidecar => view.has_started(&container.name),
            Role::Init => view
                .latest(&container.name)
                .is_some_and(|state| matches!(&state.phase, Phase::Exited(exit) if exit.code == 0)),
        })
}

fn conditions(
    view: &View<'_>,
    context: &StatusContext<'_>,
    outcome: Option<Outcome>,
    main: &[ContainerStatus],
) -> Vec<PodCondition> {
    let previous = context.previous.conditions.as_deref().unwrap_or_default();
    let initialized = initialized(view);
    let unready: Vec<&str> = main
        .iter()
        .filter(|status| !status.ready)
        .map(|status| status.name.as_str())
        .chain(
            view.roles()
                .filter(|(role, container)| {
                    *role == Role::Sidecar
                        && !view.latest(&container.name).is_some_and(|state| {
                            let verdict = view.verdict(&state.record.id);
                            matches!(state.phase, Phase::Running { .. }) && verdict.ready
                        })
                })
                .map(|(_, container)| container.name.as_str()),
        )
        .collect();
    let containers_ready = match outcome {
        Some(Outcome::Succeeded) => Err(("PodCompleted", String::new())),
        Some(Outcome::Failed) => Err(("PodFailed", String::new())),
        None if unready.is_empty() && initialized => Ok(()),
        None => {
            let message = format!("containers with unready status: [{}]", unready.join(" "));
            Err(("ContainersNotReady", message))
        }
    };
    let gates = view
        .pod
        .spec
        .iter()
        .flat_map(|spec| spec.readiness_gates.iter().flatten());
    let closed: Vec<&str> = gates
        .map(|gate| gate.condition_type.as_str())
        .filter(|gate| {
            let own = view
                .pod
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten());
            !own.into_iter()
                .any(|known| known.type_ == *gate && known.status == "True")
        })
        .collect();
    let ready = containers_ready
        .clone()
        .and_then(|()| match closed.as_slice() {
            [] => Ok(()),
            gates => Err((
                "ReadinessGatesNotReady",
                format!("corresponding condition of pod readiness gate {gates:?} is not \"True\""),
            )),
        });
    let has_sandbox = if view.alive {
        Ok(())
    } else {
        Err(("", String::new()))
    };
    let was_initialized = if initialized {
        Ok(())
    } else {
        let waiting: Vec<&str> = view
            .roles()
            .filter(|(role, _)| *role == Role::Init)
            .map(|(_, container)| container.name.as_str())
            .collect();
        let message = format!("containers with incomplete status: [{}]", waiting.join(" "));
        Err(("ContainersNotInitialized", message))
    };
    let own = [
        ("PodReadyToStartContainers", has_sandbox),
        ("Initialized", was_initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
    ];
    let mut conditions: Vec<PodCondition> = own
        .into_iter()
        .map(|(type_, state)| condition(previous, type_, state, view.now))
        .collect();
    // Others' conditions: readiness gates as the API has them now, PodScheduled for ever.
    let api = view
        .pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    for theirs in api {
        if !conditions
            .iter()
            .any(|condition| condition.type_ == theirs.type_)
        {
            conditions.push(theirs.clone());
        }
    }
    if !conditions
        .iter()
        .any(|condition| condition.type_ == "PodScheduled")
    {
        conditions.push(condition(previous, "PodScheduled", Ok(()), view.now));
    }
    conditions
}

fn condition(
    previous: &[PodCondition],
    type_: &str,
    state: Result<(), (&str, String)>,
    now: Timestamp,
) -> PodCondition {
    let status = if state.is_ok() { "True" } else { "False" };
    let (reason, message) = match state {
        Ok(()) => (None, None),
        Err((reason, message)) => (
            Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
            Some(message).filter(|message| !message.is_empty()),
        ),
    };
    let since = previous
        .iter()
        .find(|known| known.type_ == type_ && known.status == status)
        .and_then(|known| known.last_transition_time.clone());
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        last_transition_time: Some(since.unwrap_or(Time(now))),
        ..PodCondition::default()
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
