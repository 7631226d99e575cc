//! Which nodes a pod may run on, and in upstream's words why not.

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

use super::{
    affinity,
    node_info::{HostPort, NodeInfo, Resident},
};

/// Why a pod cannot run on a node; empty if it can. As upstream, the first filter that refuses
/// speaks, and only the one for resources names several things.
pub(super) fn reasons(pod: &Pod, wanted: &Resident, info: &NodeInfo) -> Vec<String> {
    let Some(node) = &info.node else {
        return vec!["node(s) were not ready".to_owned()];
    };
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    if is_unschedulable(node, tolerations) {
        return vec!["node(s) were unschedulable".to_owned()];
    }
    if let Some(taint) = untolerated(node, tolerations) {
        let value = taint.value.as_deref().unwrap_or_default();
        return vec![format!(
            "node(s) had untolerated taint {{{}: {value}}}",
            taint.key
        )];
    }
    if !affinity::allows(pod, node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
    }
    let has_conflict = info
        .residents()
        .flat_map(|resident| &resident.ports)
        .any(|taken| wanted.ports.iter().any(|port| conflicts(taken, port)));
    if has_conflict {
        return vec!["node(s) didn't have free ports for the requested pod ports".to_owned()];
    }
    resources(wanted, info)
}

fn resources(wanted: &Resident, info: &NodeInfo) -> Vec<String> {
    let mut reasons = Vec::new();
    // `pods` is counted in wholes; amounts are in thousandths.
    let pods_max = info.allocatable.get("pods").copied().unwrap_or(0) / 1000;
    if i64::try_from(info.count()).unwrap_or(i64::MAX) >= pods_max {
        reasons.push("Too many pods".to_owned());
    }
    for (name, amount) in wanted.requests.iter().filter(|(_, amount)| **amount > 0) {
        let allocatable = info.allocatable.get(name).copied().unwrap_or(0);
        let requested = info.requested.get(name).copied().unwrap_or(0);
        if *amount > allocatable.saturating_sub(requested) {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    reasons
}

fn conflicts(one: &HostPort, other: &HostPort) -> bool {
    let any = "0.0.0.0";
    one.0 == other.0 && one.2 == other.2 && (one.1 == other.1 || one.1 == any || other.1 == any)
}

fn is_unschedulable(node: &Node, tolerations: &[Toleration]) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    node.spec
        .as_ref()
        .and_then(|spec| spec.unschedulable)
        .unwrap_or(false)
        && !tolerations
            .iter()
            .any(|toleration| tolerates(toleration, &taint))
}

/// The first taint that keeps a pod with these tolerations off.
fn untolerated<'a>(node: &'a Node, tolerations: &[Toleration]) -> Option<&'a Taint> {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|taint| {
            !tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
        })
}

/// Whether a toleration covers a taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let is_named =
        |own: Option<&String>, of: &str| own.is_none_or(|own| own.is_empty() || own == of);
    let has_key = toleration.key.as_ref().is_some_and(|key| !key.is_empty());
    let value = taint.value.as_deref().unwrap_or_default();
    let is_value = match toleration.operator.as_deref() {
        None | Some("" | "Equal") => {
            has_key && toleration.value.as_deref().unwrap_or_default() == value
        }
        Some("Exists") => true,
        Some(_) => false,
    };
    is_named(toleration.effect.as_ref(), &taint.effect)
        && is_named(toleration.key.as_ref(), &taint.key)
        && is_value
}
