//! What a Deployment says about itself.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    sets::Sets,
    strategy::{replicas, unavailable_max},
};

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
/// Upstream's way of saying "no deadline".
const NO_DEADLINE: i32 = i32::MAX;

/// Counts and the Available condition. Progress is judged by [`progress`].
pub(super) fn count(deployment: &Deployment, sets: &Sets, now: Timestamp) -> DeploymentStatus {
    let sum = |of: fn(&super::sets::Set) -> i32| sets.all.iter().map(of).sum::<i32>();
    let available = sum(|set| set.available());
    let wanted: i32 = sum(|set| set.replicas());
    let old = deployment.status.clone().unwrap_or_default();
    let nonzero = |count: i32| Some(count).filter(|count| *count != 0);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(sum(|set| set.actual())),
        updated_replicas: nonzero(sets.new.map_or(0, |new| sets.all[new].actual())),
        ready_replicas: nonzero(sum(|set| set.ready())),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((wanted - available).max(0)),
        terminating_replicas: Some(sum(|set| set.terminating())),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let enough = available >= replicas(deployment) - unavailable_max(deployment);
    let (state, reason, message) = if enough {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    set(&mut status, AVAILABLE, state, reason, message, now);
    status
}

/// Judges progress against the deadline and carries a set's failure over. Returns when to look
/// again if nothing happens.
pub(super) fn progress(
    deployment: &Deployment,
    sets: &Sets,
    status: &mut DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let deadline = deadline(deployment);
    let subject = match sets.new {
        Some(new) => format!("ReplicaSet \"{}\"", sets.all[new].name()),
        None => format!(
            "Deployment \"{}\"",
            deployment.metadata.name.as_deref().unwrap_or("")
        ),
    };
    let current = condition(status, PROGRESSING).cloned();
    let was_done = current
        .as_ref()
        .is_some_and(|old| old.reason.as_deref() == Some(NEW_SET_AVAILABLE))
        && status.replicas == status.updated_replicas;
    if deadline.is_none() {
        remove(status, PROGRESSING);
    } else if !was_done {
        if is_complete(deployment, status) {
            let message = format!("{subject} has successfully progressed.");
            set(
                status,
                PROGRESSING,
                "True",
                NEW_SET_AVAILABLE,
                &message,
                now,
            );
        } else if has_progressed(deployment, status) {
            let message = format!("{subject} is progressing.");
            refresh(status, PROGRESSING, "ReplicaSetUpdated", &message, now);
        } else if is_timed_out(current.as_ref(), deadline, now) {
            let message = format!("{subject} has timed out progressing.");
            set(status, PROGRESSING, "False", TIMED_OUT, &message, now);
        }
    }
    remove(status, REPLICA_FAILURE);
    let failure = sets.all.iter().find_map(|set| {
        let conditions = set.object.status.as_ref()?.conditions.as_deref()?;
        conditions
            .iter()
            .find(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE))
    });
    if let Some(failure) = failure {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (state, reason) = (text(&failure.status), text(&failure.reason));
        set(
            status,
            REPLICA_FAILURE,
            &state,
            &reason,
            &text(&failure.message),
            now,
        );
    }
    check_again(deployment, status, deadline, now)
}

/// Notes that a rollout was paused or resumed, so that the pause does not count as a stall.
pub(super) fn note_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let reason = condition(status, PROGRESSING).and_then(|old| old.reason.clone());
    let reason = reason.as_deref();
    // A deadline missed stays missed.
    if reason == Some(TIMED_OUT) {
        return;
    }
    let is_paused = is_paused(deployment);
    if is_paused && reason != Some("DeploymentPaused") {
        set(
            status,
            PROGRESSING,
            "Unknown",
            "DeploymentPaused",
            "Deployment is paused",
            now,
        );
    } else if !is_paused && reason == Some("DeploymentPaused") {
        set(
            status,
            PROGRESSING,
            "Unknown",
            "DeploymentResumed",
            "Deployment is resumed",
            now,
        );
    }
}

/// Notes that the set of the current template was made or found.
pub(super) fn note_set(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    is_new: bool,
    name: &str,
    now: Timestamp,
) {
    if deadline(deployment).is_none() {
        return;
    }
    if is_new {
        let message = format!("Created new replica set \"{name}\"");
        set(
            status,
            PROGRESSING,
            "True",
            "NewReplicaSetCreated",
            &message,
            now,
        );
    } else if condition(status, PROGRESSING).is_none() {
        let message = format!("Found new replica set \"{name}\"");
        set(
            status,
            PROGRESSING,
            "True",
            "FoundNewReplicaSet",
            &message,
            now,
        );
    }
}

/// Whether every replica is of the current template and available.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let desired = replicas(deployment);
    status.updated_replicas.unwrap_or(0) == desired
        && status.replicas.unwrap_or(0) == desired
        && status.available_replicas.unwrap_or(0) == desired
        && status.observed_generation >= deployment.metadata.generation
}

pub(super) fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.paused.unwrap_or(false)
}

fn has_progressed(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let old = deployment.status.clone().unwrap_or_default();
    let count = |number: Option<i32>| number.unwrap_or(0);
    let outdated =
        |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(status.updated_replicas) > count(old.updated_replicas)
        || outdated(status) < outdated(&old)
        || count(status.ready_replicas) > count(old.ready_replicas)
        || count(status.available_replicas) > count(old.available_replicas)
}

fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = deployment.spec.progress_deadline_seconds?;
    (seconds != NO_DEADLINE).then(|| SignedDuration::from_secs(i64::from(seconds)))
}

fn is_timed_out(
    current: Option<&DeploymentCondition>,
    deadline: Option<SignedDuration>,
    now: Timestamp,
) -> bool {
    let (Some(current), Some(deadline)) = (current, deadline) else {
        return false;
    };
    match current.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => current
            .last_update_time
            .as_ref()
            .is_some_and(|at| at.0 + deadline < now),
    }
}

fn check_again(
    deployment: &Deployment,
    status: &DeploymentStatus,
    deadline: Option<SignedDuration>,
    now: Timestamp,
) -> Option<Duration> {
    let current = condition(status, PROGRESSING)?;
    if is_complete(deployment, status)
        || is_paused(deployment)
        || current.reason.as_deref() == Some(TIMED_OUT)
    {
        return None;
    }
    let due = current.last_update_time.as_ref()?.0 + deadline?;
    // A second later, so that the deadline has surely passed then.
    let wait = due.duration_since(now).max(SignedDuration::ZERO) + SignedDuration::from_secs(1);
    Duration::try_from(wait).ok()
}

fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .as_deref()?
        .iter()
        .find(|condition| condition.type_.as_deref() == Some(kind))
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_.as_deref() != Some(kind));
    }
}

/// Sets a condition. The same status and reason leave it alone; the same status keeps its
/// transition time.
fn set(
    status: &mut DeploymentStatus,
    kind: &str,
    state: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let unchanged = condition(status, kind).is_some_and(|old| {
        old.status.as_deref() == Some(state) && old.reason.as_deref() == Some(reason)
    });
    if !unchanged {
        put(status, kind, state, reason, message, now);
    }
}

/// Sets a condition that is true, moving its update time even if nothing else changed: the
/// deadline counts from the last progress.
fn refresh(status: &mut DeploymentStatus, kind: &str, reason: &str, message: &str, now: Timestamp) {
    put(status, kind, "True", reason, message, now);
}

fn put(
    status: &mut DeploymentStatus,
    kind: &str,
    state: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let since = condition(status, kind)
        .filter(|old| old.status.as_deref() == Some(state))
        .and_then(|old| old.last_transition_time.clone());
    let new = DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(state.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: since.or(Some(Time(now))),
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions
        .iter_mut()
        .find(|condition| condition.type_.as_deref() == Some(kind))
    {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}
