//! Revisions: which template a ReplicaSet stands for, as `kubectl rollout history` and `undo` read
//! it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

/// The revision of a ReplicaSet, and the current one of a Deployment.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Revisions a ReplicaSet stood for before it was rolled back to.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's replicas when the set was last scaled.
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same plus the surge.
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// The revision of a ReplicaSet; 0 before it got one.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    number(set, REVISION).unwrap_or(0)
}

/// A number kept in an annotation.
pub(super) fn number(set: &ReplicaSet, key: &str) -> Option<i64> {
    set.metadata.annotations.as_ref()?.get(key)?.parse().ok()
}

/// The annotations the set of the current template should have: the Deployment's own that are
/// worth keeping with the revision (`kubernetes.io/change-cause`), and the revision.
pub(super) fn annotations(
    deployment: &Deployment,
    set: Option<&ReplicaSet>,
    newest: i64,
) -> BTreeMap<String, String> {
    const NOT_COPIED: [&str; 5] = [
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        REVISION_HISTORY,
        DESIRED_REPLICAS,
        MAX_REPLICAS,
    ];
    let mut annotations: BTreeMap<_, _> = deployment
        .metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let old = set.map_or(0, revision);
    if old < newest {
        annotations.insert(REVISION.to_owned(), newest.to_string());
        if old > 0 {
            let history = set
                .and_then(|set| set.metadata.annotations.as_ref()?.get(REVISION_HISTORY))
                .filter(|history| !history.is_empty());
            let history = match history {
                Some(history) => format!("{history},{old}"),
                None => old.to_string(),
            };
            annotations.insert(REVISION_HISTORY.to_owned(), history);
        }
    }
    annotations
}
