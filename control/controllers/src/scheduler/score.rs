//! Which of the nodes that a pod may run on is the best.

use k8s_openapi::api::core::v1::Pod;

use super::{
    affinity, filter,
    node_info::{NodeInfo, Resident},
};

/// The most one score counts for.
const SCORE_MAX: f64 = 100.0;
/// Spreading counts twice: what replicas are for is the loss of a node.
const SPREAD_WEIGHT: f64 = 2.0;

/// The best of `nodes`: roomy, with few pods of the same owner, preferred by the pod. Ties go to
/// the node with fewer pods, then to the first name, so that a decision can be repeated.
pub(super) fn best<'a>(
    pod: &Pod,
    wanted: &Resident,
    nodes: &[&'a NodeInfo],
) -> Option<&'a NodeInfo> {
    let siblings: Vec<f64> = nodes
        .iter()
        .map(|info| as_f64(siblings(wanted, info)))
        .collect();
    let preferred: Vec<f64> = nodes.iter().map(|info| preference(pod, info)).collect();
    let avoided: Vec<f64> = nodes
        .iter()
        .map(|info| as_f64(avoidance(pod, info)))
        .collect();
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let (most_siblings, most_preferred, most_avoided) =
        (most(&siblings), most(&preferred), most(&avoided));
    let share = |value: f64, most: f64| if most > 0.0 { value / most } else { 0.0 };
    nodes
        .iter()
        .enumerate()
        .map(|(index, info)| {
            let score = room(wanted, info)
                + SPREAD_WEIGHT * SCORE_MAX * (1.0 - share(siblings[index], most_siblings))
                + SCORE_MAX * share(preferred[index], most_preferred)
                + SCORE_MAX * (1.0 - share(avoided[index], most_avoided));
            (score, *info)
        })
        .min_by(|(a_score, a), (b_score, b)| {
            b_score
                .total_cmp(a_score)
                .then_with(|| a.count().cmp(&b.count()))
                .then_with(|| a.name().cmp(&b.name()))
        })
        .map(|(_, info)| info)
}

/// What would be left of CPU and memory, on average.
fn room(wanted: &Resident, info: &NodeInfo) -> f64 {
    let left = |name: &str| {
        let allocatable = info.allocatable.get(name).copied().unwrap_or(0);
        let used = info.scored.get(name).copied().unwrap_or(0)
            + wanted.scored.get(name).copied().unwrap_or(0);
        if allocatable <= 0 {
            0.0
        } else {
            as_f64((allocatable - used).max(0)) / as_f64(allocatable)
        }
    };
    SCORE_MAX * (left("cpu") + left("memory")) / 2.0
}

fn siblings(wanted: &Resident, info: &NodeInfo) -> i64 {
    let Some(owner) = &wanted.owner else { return 0 };
    let count = info
        .residents()
        .filter(|resident| resident.owner.as_ref() == Some(owner))
        .count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn preference(pod: &Pod, info: &NodeInfo) -> f64 {
    let terms = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .preferred_during_scheduling_ignored_during_execution
                .as_deref()
        });
    let Some(node) = &info.node else { return 0.0 };
    terms
        .unwrap_or_default()
        .iter()
        .filter(|term| affinity::is_met(&term.preference, node))
        .map(|term| f64::from(term.weight))
        .sum()
}

fn avoidance(pod: &Pod, info: &NodeInfo) -> i64 {
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let taints = info
        .node
        .as_ref()
        .and_then(|node| node.spec.as_ref()?.taints.as_deref());
    let count = taints
        .unwrap_or_default()
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule")
        .filter(|taint| {
            !tolerations
                .iter()
                .any(|toleration| filter::tolerates(toleration, taint))
        })
        .count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a score needs no more than 52 bits"
)]
fn as_f64(number: i64) -> f64 {
    number as f64
}
