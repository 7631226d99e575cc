//! The decision: from a pod as it should be and as it is to what is done next.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::{Role, View, next_backoff_s};
use crate::shim::protocol::{ContainerState, Exit, Phase};

/// A run this long ends a crash loop.
const HEALTHY_RUN: SignedDuration = SignedDuration::from_mins(10);
/// Time between TERM and KILL unless the pod says otherwise.
const GRACE_S_DEFAULT: i64 = 30;
/// Least time between TERM and KILL.
const GRACE_S_MIN: i64 = 2;

/// One thing to do. Each is idempotent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Make what the containers share.
    RunSandbox,
    /// Start the next run of a container.
    Start {
        name: String,
        attempt: u32,
        backoff_s: u32,
    },
    /// Ask a container to end, and make it when the grace is over.
    Stop {
        name: String,
        id: String,
        grace_s: i64,
        reason: StopReason,
    },
    /// Forget an old run.
    Remove { id: String },
    /// Nothing will run any more: let go of the sandbox, keep what is known of the exits.
    StopSandbox,
    /// Remove everything; the pod is gone.
    TearDown,
}

/// Why a container is stopped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum StopReason {
    /// The pod is leaving.
    Leaving,
    /// The pod's work is done; this is a sidecar.
    Done,
    /// A probe has failed.
    Probe(super::ProbeKind),
}

/// What to do, and when to ask again should nothing happen before.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake_at: Option<Timestamp>,
    /// Containers that wait for the end of a crash-loop back-off, by id of their last run.
    pub(crate) backing_off: Vec<(String, String)>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// How a pod that will do nothing more has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Failed,
}

/// Decides what is to be done now.
pub(crate) fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if view.leaving {
        stop_all(
            view,
            &mut plan,
            StopReason::Leaving,
            termination_grace_s(view.pod),
        );
        if plan.actions.is_empty() && !any_running(view) {
            plan.actions.push(Action::TearDown);
        }
        return plan;
    }
    if outcome(view).is_some() {
        stop_all(
            view,
            &mut plan,
            StopReason::Done,
            termination_grace_s(view.pod),
        );
        if view.alive && !any_running(view) {
            plan.actions.push(Action::StopSandbox);
        }
        return plan;
    }
    if !view.alive {
        match view.sandbox_retry_at {
            Some(at) if at > view.now => plan.wake_at(at),
            Some(_) | None => plan.actions.push(Action::RunSandbox),
        }
        return plan;
    }
    advance(view, &mut plan);
    remove_old_runs(view, &mut plan);
    plan
}

/// How the pod has ended, if it has.
pub(crate) fn outcome(view: &View<'_>) -> Option<Outcome> {
    let policy = restart_policy(view.pod);
    let exit = |name: &str| match &view.latest(name)?.phase {
        Phase::Exited(exit) => Some(exit),
        Phase::Creating | Phase::Running { .. } => None,
    };
    let init_failed = policy == "Never"
        && view
            .roles()
            .filter(|(role, _)| *role == Role::Init)
            .any(|(_, container)| exit(&container.name).is_some_and(|exit| exit.code != 0));
    if init_failed {
        return Some(Outcome::Failed);
    }
    let mut succeeded = true;
    for (_, container) in view.roles().filter(|(role, _)| *role == Role::Main) {
        let exit = exit(&container.name)?;
        if restarts(policy, Role::Main, exit) {
            return None;
        }
        succeeded &= exit.code == 0;
    }
    Some(if succeeded {
        Outcome::Succeeded
    } else {
        Outcome::Failed
    })
}

/// When the next run of an exited container is due, and the back-off that then was.
pub(crate) fn restart_due(state: &ContainerState, exit: &Exit) -> (Timestamp, u32) {
    let ran = exit
        .started_at
        .map(|started| exit.finished_at.duration_since(started));
    let healthy = ran.is_some_and(|ran| ran >= HEALTHY_RUN);
    // As a kubelet: the first restart comes at once, the second after 10 s, then doubling.
    let delay_s = match (state.record.attempt, healthy) {
        (0, _) | (_, true) => 0,
        (_, false) => next_backoff_s(state.record.backoff_s),
    };
    (
        exit.finished_at + SignedDuration::from_secs(delay_s.into()),
        delay_s,
    )
}

/// Whether an exited container runs again.
pub(crate) fn restarts(policy: &str, role: Role, exit: &Exit) -> bool {
    match (role, policy) {
        (Role::Sidecar, _) => true,
        (Role::Init, "Never") => false,
        (Role::Init, _) => exit.code != 0,
        (Role::Main, "Never") => false,
        (Role::Main, "OnFailure") => exit.code != 0,
        (Role::Main, _) => true,
    }
}

/// The pod's restart policy.
pub(crate) fn restart_policy(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        .unwrap_or("Always")
}

fn termination_grace_s(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .or_else(|| pod.spec.as_ref()?.termination_grace_period_seconds)
        .unwrap_or(GRACE_S_DEFAULT)
        .max(GRACE_S_MIN)
}

fn any_running(view: &View<'_>) -> bool {
    view.containers
        .iter()
        .any(|state| !matches!(state.phase, Phase::Exited(_)))
}

/// Stops what runs: sidecars only after all they serve, and in the reverse order of their start.
fn stop_all(view: &View<'_>, plan: &mut Plan, reason: StopReason, grace_s: i64) {
    let running = |name: &str| {
        view.latest(name)
            .filter(|state| !matches!(state.phase, Phase::Exited(_)))
    };
    let mut stop = |state: &ContainerState| {
        if !view.stopping.contains(&state.record.id) {
            plan.actions.push(Action::Stop {
                name: state.record.name.clone(),
                id: state.record.id.clone(),
                grace_s,
                reason: reason.clone(),
            });
        }
    };
    let mut served = false;
    for (role, container) in view.roles() {
        if role != Role::Sidecar
            && let Some(state) = running(&container.name)
        {
            served = true;
            stop(state);
        }
    }
    if served {
        return;
    }
    let sidecars: Vec<_> = view
        .roles()
        .filter(|(role, _)| *role == Role::Sidecar)
        .filter_map(|(_, container)| running(&container.name))
        .collect();
    if let Some(last) = sidecars.last() {
        stop(last);
    }
    // A container the pod's present spec does not name can only be stopped.
    for state in view.containers {
        let named = view
            .roles()
            .any(|(_, container)| container.name == state.record.name);
        if !named && !matches!(state.phase, Phase::Exited(_)) {
            stop(state);
        }
    }
}

/// Brings the pod forward: init containers one after the other, then all of its own at once.
fn advance(view: &View<'_>, plan: &mut Plan) {
    let policy = restart_policy(view.pod);
    // Once the pod's own containers have run, its init containers are done for good.
    let initialized = view
        .roles()
        .any(|(role, container)| role == Role::Main && view.latest(&container.name).is_some());
    for (role, container) in view.roles() {
        if role == Role::Init && initialized {
            continue;
        }
        let name = &container.name;
        let finished = match view.latest(name) {
            None => {
                start(view, plan, name, 0, 0);
                false
            }
            Some(state) => match &state.phase {
                Phase::Creating => false,
                Phase::Running { .. } => {
                    check_probes(view, plan, state);
                    role == Role::Sidecar && view.has_started(name)
                }
                Phase::Exited(exit) if restarts(policy, role, exit) => {
                    let (due, backoff_s) = restart_due(state, exit);
                    if due <= view.now {
                        start(view, plan, name, state.record.attempt + 1, backoff_s);
                    } else {
                        plan.wake_at(due);
                        plan.backing_off
                            .push((name.clone(), state.record.id.clone()));
                    }
                    false
                }
                Phase::Exited(_) => true,
            },
        };
        let gate = role != Role::Main && !initialized;
        if gate && !finished {
            return;
        }
    }
}

fn start(view: &View<'_>, plan: &mut Plan, name: &str, attempt: u32, backoff_s: u32) {
    match view.waits.get(name) {
        Some(wait) if wait.retry_at > view.now => plan.wake_at(wait.retry_at),
        Some(_) | None => {
            plan.actions.push(Action::Start {
                name: name.to_owned(),
                attempt,
                backoff_s,
            });
        }
    }
}

fn check_probes(view: &View<'_>, plan: &mut Plan, state: &ContainerState) {
    let id = &state.record.id;
    let Some(failure) = view.verdict(id).failed else {
        return;
    };
    if view.stopping.contains(id) {
        return;
    }
    plan.actions.push(Action::Stop {
        name: state.record.name.clone(),
        id: id.clone(),
        grace_s: failure
            .grace_s
            .unwrap_or_else(|| termination_grace_s(view.pod))
            .max(GRACE_S_MIN),
        reason: StopReason::Probe(failure.kind),
    });
}

/// Of each container the latest run and the one before stay: `kubectl logs --previous`.
fn remove_old_runs(view: &View<'_>, plan: &mut Plan) {
    for state in view.containers {
        let kept = [
            view.latest(&state.record.name),
            view.previous(&state.record.name),
        ];
        let old = !kept
            .into_iter()
            .flatten()
            .any(|kept| kept.record.id == state.record.id);
        if old && matches!(state.phase, Phase::Exited(_)) {
            plan.actions.push(Action::Remove {
                id: state.record.id.clone(),
            });
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
