//! Spreading a change of `replicas` over ReplicaSets in the middle of a rollout.

use k8s_openapi::api::apps::v1::Deployment;

use super::{
    history,
    sets::Sets,
    strategy::{is_recreate, replicas, surge_max},
};

/// Scales when a Deployment is paused or its `replicas` changed: no template moves forward, each
/// set keeps its share.
pub(super) fn spread(deployment: &Deployment, sets: &mut Sets) {
    let desired = replicas(deployment);
    let active: Vec<usize> = (0..sets.all.len())
        .filter(|i| sets.all[*i].replicas() > 0)
        .collect();
    let only = match active.len() {
        0 => sets.new.or_else(|| sets.latest()),
        1 => Some(active[0]),
        _ => None,
    };
    if let Some(index) = only {
        sets.scale(index, desired);
        return;
    }
    if sets
        .new
        .is_some_and(|new| sets.all[new].is_saturated(desired))
    {
        let new = sets.new;
        for index in active.into_iter().filter(|index| Some(*index) != new) {
            sets.scale(index, 0);
        }
        return;
    }
    if !is_recreate(deployment) {
        proportionally(deployment, sets, active);
    }
}

/// The remainder that rounding leaves goes to the largest set; among equals growth prefers the
/// newer and shrinking the older.
fn proportionally(deployment: &Deployment, sets: &mut Sets, mut active: Vec<usize>) {
    let desired = replicas(deployment);
    let allowed = if desired > 0 {
        desired + surge_max(deployment)
    } else {
        0
    };
    let present: i32 = active.iter().map(|index| sets.all[*index].replicas()).sum();
    let to_add = allowed - present;
    active.sort_by(|a, b| {
        let (a, b) = (&sets.all[*a], &sets.all[*b]);
        let by_age = a.created().cmp(&b.created());
        let by_age = if to_add > 0 { by_age.reverse() } else { by_age };
        b.replicas().cmp(&a.replicas()).then(by_age)
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(active.len());
    for index in &active {
        let share = share(deployment, &sets.all[*index], to_add, added);
        added += share;
        sizes.push(sets.all[*index].replicas() + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (index, size) in active.into_iter().zip(sizes) {
        sets.scale(index, size);
    }
}

fn share(deployment: &Deployment, set: &super::sets::Set, to_add: i32, added: i32) -> i32 {
    let size = set.replicas();
    let left = to_add - added;
    if size == 0 || to_add == 0 || left == 0 {
        return 0;
    }
    let desired = replicas(deployment);
    let fraction = if desired == 0 {
        -size
    } else {
        let before = history::number(&set.object, history::MAX_REPLICAS)
            .and_then(|number| i32::try_from(number).ok())
            .or_else(|| {
                deployment
                    .status
                    .as_ref()
                    .and_then(|status| status.replicas)
            })
            .filter(|count| *count > 0)
            .unwrap_or(size);
        let now = desired + surge_max(deployment);
        let exact = f64::from(size) * f64::from(now) / f64::from(before);
        // Both are replica counts, far below 2^31.
        #[expect(clippy::cast_possible_truncation, reason = "bounded by replica counts")]
        let rounded = exact.round() as i32;
        rounded - size
    };
    if to_add > 0 {
        fraction.min(left)
    } else {
        fraction.max(left)
    }
}
