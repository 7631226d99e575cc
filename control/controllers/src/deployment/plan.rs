use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use fairlead_objects::Object;
use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    history::{self, DESIRED_REPLICAS, REVISION},
    scale,
    sets::{Set, Sets},
    status,
    strategy::{is_recreate, replicas, surge_max, unavailable_max},
    template::{self, HASH_LABEL},
};
use crate::replica_set::claim;

/// How many old ReplicaSets are kept when the Deployment does not say.
const HISTORY_LIMIT: i32 = 10;

/// The ReplicaSets that are, or could be, a Deployment's.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    pub(super) sets: Vec<ReplicaSet>,
    /// The uids of those that still have pods which have not ended.
    pub(super) with_pods: HashSet<String>,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Adopt {
        set: String,
        uid: String,
    },
    Release {
        set: String,
        uid: String,
    },
    Create(Box<ReplicaSet>),
    Update {
        set: String,
        uid: String,
        replicas: i32,
        annotations: BTreeMap<String, String>,
        min_ready_seconds: Option<i32>,
    },
    Delete {
        set: String,
        uid: String,
    },
    Annotate {
        key: String,
        value: String,
    },
    Status(Box<DeploymentStatus>),
    Event {
        reason: &'static str,
        message: String,
    },
}

/// The steps to take now, and when to plan again even if nothing changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) again: Option<Duration>,
}

/// What to do next for a Deployment.
pub(super) fn plan(deployment: &Deployment, observed: &Observed, now: Timestamp) -> Plan {
    let mut actions = Vec::new();
    let mut sets = owned(deployment, observed, &mut actions);
    let mut noted = deployment.clone();
    if deployment.is_terminating() {
        let status = status::count(deployment, &sets, now);
        push_status(deployment, status, &mut actions);
        return Plan {
            actions,
            again: None,
        };
    }
    status::note_pause(deployment, noted.status.get_or_insert_default(), now);

    let is_paused = status::is_paused(deployment);
    let is_resize = is_scaling(&sets);
    if is_paused || is_resize {
        revise(deployment, &mut noted, &mut sets, false, now);
        scale::spread(deployment, &mut sets);
    } else if is_recreate(deployment) {
        recreate(deployment, &mut noted, observed, &mut sets, now);
    } else {
        roll(deployment, &mut noted, &mut sets, now);
    }

    actions.extend(changes(&sets));
    let mut next = status::count(&noted, &sets, now);
    // A change of size, or a pause, is no rollout that could stall.
    let again = if is_paused || is_resize {
        None
    } else {
        status::progress(&noted, &sets, &mut next, now)
    };
    if is_paused || status::is_complete(deployment, &next) {
        actions.extend(forget_old(deployment, &sets));
    }
    if let Some(new) = sets.new {
        let revision = sets.all[new]
            .annotations
            .get(REVISION)
            .cloned()
            .or_else(|| {
                sets.all[new]
                    .object
                    .metadata
                    .annotations
                    .as_ref()?
                    .get(REVISION)
                    .cloned()
            });
        let known = deployment
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(REVISION));
        if let Some(value) = revision.filter(|revision| Some(revision) != known) {
            actions.push(Action::Annotate {
                key: REVISION.to_owned(),
                value,
            });
        }
    }
    push_status(deployment, next, &mut actions);
    Plan { actions, again }
}

fn push_status(deployment: &Deployment, status: DeploymentStatus, actions: &mut Vec<Action>) {
    if deployment.status.as_ref() != Some(&status) {
        actions.push(Action::Status(Box::new(status)));
    }
}

/// The sets that are the Deployment's: orphans it selects are adopted, those it no longer selects
/// are let go.
fn owned(deployment: &Deployment, observed: &Observed, actions: &mut Vec<Action>) -> Sets {
    let mut all = Vec::new();
    for set in &observed.sets {
        let (name, uid) = (set.object_name().name, set.uid().to_owned());
        let is_selected = claim::selects(deployment, set);
        match claim::any_controller(set) {
            Some(owner) if owner.uid != deployment.uid() => {}
            Some(_) if is_selected || deployment.is_terminating() => {
                all.push(Set::new(set.clone(), false))
            }
            Some(_) => actions.push(Action::Release { set: name, uid }),
            None if is_selected && !deployment.is_terminating() && !set.is_terminating() => {
                actions.push(Action::Adopt { set: name, uid });
                all.push(Set::new(set.clone(), false));
            }
            None => {}
        }
    }
    all.sort_by(|a, b| a.created().cmp(&b.created()));
    let new = all.iter().position(|set| set.template_is(deployment));
    Sets {
        all,
        new,
        desired: replicas(deployment),
        surge: surge_max(deployment),
        events: Vec::new(),
    }
}

/// Whether `replicas` changed since the sets were last sized.
fn is_scaling(sets: &Sets) -> bool {
    sets.all.iter().filter(|set| set.size > 0).any(|set| {
        history::number(&set.object, DESIRED_REPLICAS)
            .is_some_and(|desired| desired != i64::from(sets.desired))
    })
}

/// Gives the set of the current template the newest revision, and makes that set if there is none
/// and `create`.
fn revise(
    deployment: &Deployment,
    noted: &mut Deployment,
    sets: &mut Sets,
    create: bool,
    now: Timestamp,
) {
    let old = sets
        .old()
        .into_iter()
        .map(|index| history::revision(&sets.all[index].object));
    let newest = old.max().unwrap_or(0) + 1;
    let status = noted.status.get_or_insert_default();
    match sets.new {
        Some(index) => {
            let set = &mut sets.all[index];
            let annotations = history::annotations(deployment, Some(&set.object), newest);
            set.annotations.extend(annotations);
            set.min_ready_seconds = deployment.spec.min_ready_seconds;
            let name = set.name().to_owned();
            status::note_set(deployment, status, false, &name, now);
        }
        None if create => {
            let mut set = Set::new(make(deployment, status.collision_count, newest), true);
            set.size = 0;
            let name = set.name().to_owned();
            status::note_set(deployment, status, true, &name, now);
            sets.all.push(set);
            sets.new = Some(sets.all.len() - 1);
        }
        None => {}
    }
}

fn make(deployment: &Deployment, collisions: Option<i32>, revision: i64) -> ReplicaSet {
    let spec = deployment.spec.clone();
    let hash = template::hash(&spec.template, collisions);
    let mut pod_template = spec.template;
    let labels = pod_template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH_LABEL.to_owned(), hash.clone());
    let name = deployment.object_name();
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name.name)),
            namespace: Some(name.namespace),
            labels: Some(labels),
            annotations: Some(history::annotations(deployment, None, revision)),
            owner_references: Some(vec![claim::owner(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(pod_template),
        },
        status: None,
    }
}

/// How large the set of the current template may be now.
fn new_size(deployment: &Deployment, sets: &Sets, index: usize) -> i32 {
    let (size, desired) = (sets.all[index].size, sets.desired);
    if is_recreate(deployment) || size > desired {
        return desired;
    }
    let room = desired + sets.surge - sets.total();
    if room <= 0 {
        size
    } else {
        size + room.min(desired - size)
    }
}

fn roll(deployment: &Deployment, noted: &mut Deployment, sets: &mut Sets, now: Timestamp) {
    revise(deployment, noted, sets, true, now);
    let Some(new) = sets.new else { return };
    let size = new_size(deployment, sets, new);
    if size != sets.all[new].size || sets.all[new].is_created {
        sets.scale(new, size);
        return;
    }
    let unavailable = unavailable_max(deployment);
    let floor = sets.desired - unavailable;
    let not_yet = sets.all[new].size - sets.all[new].available();
    let spare = sets.total() - floor - not_yet;
    let old = sets.old();
    if spare <= 0 || old.iter().all(|index| sets.all[*index].size == 0) {
        return;
    }
    // Pods that serve nobody go first: it costs no availability.
    let mut cleaned = 0;
    for &index in &old {
        let set = &sets.all[index];
        let unhealthy = set.size - set.available();
        let cut = unhealthy.min(spare - cleaned).min(set.size);
        if cut > 0 {
            cleaned += cut;
            let size = set.size - cut;
            sets.scale(index, size);
        }
    }
    let mut left = (sets.available() - floor).max(0);
    for &index in &old {
        let cut = sets.all[index].size.min(left);
        if cut > 0 {
            left -= cut;
            let size = sets.all[index].size - cut;
            sets.scale(index, size);
        }
    }
}

fn recreate(
    deployment: &Deployment,
    noted: &mut Deployment,
    observed: &Observed,
    sets: &mut Sets,
    now: Timestamp,
) {
    revise(deployment, noted, sets, false, now);
    let old = sets.old();
    let mut is_shrinking = false;
    for &index in &old {
        if sets.all[index].size > 0 {
            sets.scale(index, 0);
            is_shrinking = true;
        }
    }
    let is_running = |index: &usize| observed.with_pods.contains(sets.all[*index].object.uid());
    if is_shrinking || old.iter().any(is_running) {
        return;
    }
    revise(deployment, noted, sets, true, now);
    if let Some(new) = sets.new {
        let desired = sets.desired;
        sets.scale(new, desired);
    }
}

/// The writes that turn the sets as observed into the sets as planned.
fn changes(sets: &Sets) -> Vec<Action> {
    let mut actions = Vec::new();
    for set in &sets.all {
        if set.is_created {
            let mut object = set.object.clone();
            object.spec.replicas = Some(set.size);
            let annotations = object.metadata.annotations.get_or_insert_default();
            annotations.extend(set.annotations.clone());
            actions.push(Action::Create(Box::new(object)));
            continue;
        }
        let spec = &set.object.spec;
        let kept = set.object.metadata.annotations.as_ref();
        let annotations: BTreeMap<_, _> = set
            .annotations
            .iter()
            .filter(|(key, value)| kept.and_then(|kept| kept.get(*key)) != Some(*value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let is_same = spec.replicas.unwrap_or(1) == set.size
            && spec.min_ready_seconds == set.min_ready_seconds
            && annotations.is_empty();
        if !is_same {
            actions.push(Action::Update {
                set: set.name().to_owned(),
                uid: set.object.uid().to_owned(),
                replicas: set.size,
                annotations,
                min_ready_seconds: set.min_ready_seconds,
            });
        }
    }
    actions.extend(sets.events.clone());
    actions
}

/// Deletes the oldest empty sets beyond `revisionHistoryLimit`.
fn forget_old(deployment: &Deployment, sets: &Sets) -> Vec<Action> {
    let limit = deployment
        .spec
        .revision_history_limit
        .unwrap_or(HISTORY_LIMIT);
    let limit = usize::try_from(limit).unwrap_or(0);
    let mut old: Vec<&Set> = sets
        .old()
        .into_iter()
        .map(|index| &sets.all[index])
        .filter(|set| !set.object.is_terminating())
        .collect();
    let excess = old.len().saturating_sub(limit);
    old.sort_by_key(|set| history::revision(&set.object));
    old.into_iter()
        .take(excess)
        .filter(|set| set.size == 0 && set.actual() == 0)
        .filter(|set| {
            set.object
                .status
                .as_ref()
                .and_then(|status| status.observed_generation)
                >= set.object.metadata.generation
        })
        .map(|set| Action::Delete {
            set: set.name().to_owned(),
            uid: set.object.uid().to_owned(),
        })
        .collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
