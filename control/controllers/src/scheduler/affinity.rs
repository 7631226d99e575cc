//! Node selectors: terms are alternatives, the requirements of a term must all hold.

use std::collections::BTreeMap;

use fairlead_objects::Object;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};

/// Whether a pod's nodeSelector and required node affinity allow a node.
pub(super) fn allows(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let nothing = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&nothing);
    let is_selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    is_selected
        && required.is_none_or(|required| {
            required
                .node_selector_terms
                .iter()
                .any(|term| is_met(term, node))
        })
}

/// Whether a node meets a term. An empty one is met by none.
pub(super) fn is_met(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).cloned();
    let field = |key: &str| (key == "metadata.name").then(|| node.object_name().name);
    !(expressions.is_empty() && fields.is_empty())
        && expressions
            .iter()
            .all(|requirement| holds(requirement, label(&requirement.key)))
        && fields
            .iter()
            .all(|requirement| holds(requirement, field(&requirement.key)))
}

fn holds(requirement: &NodeSelectorRequirement, actual: Option<String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = actual
        .as_ref()
        .is_some_and(|actual| values.contains(actual));
    let numbers = || {
        let actual: i64 = actual.as_ref()?.parse().ok()?;
        let limit: i64 = values.first()?.parse().ok()?;
        Some((actual, limit))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => numbers().is_some_and(|(actual, limit)| actual > limit),
        "Lt" => numbers().is_some_and(|(actual, limit)| actual < limit),
        _ => false,
    }
}
