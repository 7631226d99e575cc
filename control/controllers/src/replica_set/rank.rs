//! Which pods go first when there are too many, as upstream's `ActivePodsWithRanks` has it.

use std::{
    cmp::{Ordering, Reverse},
    collections::HashMap,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::pod_state;

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The pods, the one to delete first in front.
pub(super) fn first_to_go<'a>(pods: &[&'a Pod], now: Timestamp) -> Vec<&'a Pod> {
    let mut by_node: HashMap<Option<&str>, usize> = HashMap::new();
    for pod in pods {
        *by_node.entry(pod_state::node(pod)).or_default() += 1;
    }
    let mut ranked = pods.to_vec();
    ranked.sort_by(|a, b| {
        let crowd = |pod: &Pod| Reverse(by_node.get(&pod_state::node(pod)).copied().unwrap_or(0));
        is_bound(a)
            .cmp(&is_bound(b))
            .then_with(|| phase(a).cmp(&phase(b)))
            .then_with(|| pod_state::is_ready(a).cmp(&pod_state::is_ready(b)))
            .then_with(|| cost(a).cmp(&cost(b)))
            .then_with(|| crowd(a).cmp(&crowd(b)))
            .then_with(|| by_age(pod_state::ready_since(a), pod_state::ready_since(b), now))
            .then_with(|| restarts(b).cmp(&restarts(a)))
            .then_with(|| by_age(created(a), created(b), now))
    });
    ranked
}

fn is_bound(pod: &Pod) -> bool {
    pod_state::node(pod).is_some()
}

fn phase(pod: &Pod) -> u8 {
    match pod_state::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    }
}

fn cost(pod: &Pod) -> i32 {
    let cost = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(COST));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref());
    statuses
        .unwrap_or_default()
        .iter()
        .map(|status| status.restart_count)
        .max()
        .unwrap_or(0)
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// The younger first, but ages are only told apart by their order of magnitude, so that a set does
/// not lose all pods of one moment (one node's, one zone's) before any other.
fn by_age(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |at: Option<Timestamp>| {
        at.map(|at| {
            now.duration_since(at)
                .as_secs()
                .max(0)
                .unsigned_abs()
                .max(1)
                .ilog2()
        })
    };
    magnitude(a).cmp(&magnitude(b))
}
