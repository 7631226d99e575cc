//! Pods that nobody else will remove: of nodes that are gone, ended ones beyond a limit, and those
//! that were to go before they were ever bound.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use fairlead_api::resource;
use fairlead_objects::{Cache, Change, Changed, Grace, Object, ObjectName, WriteError};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tracing::info;

use crate::{
    controller::{Context, Controller, Outcome, everything},
    pod_state,
};

const LOOK_AGAIN: Duration = Duration::from_secs(20);
/// How long a node must be missing before its pods count as orphans: it may be registering anew.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);

/// The collector of pods.
#[derive(Default)]
pub(crate) struct PodGarbageCollector {
    /// Since when a node that pods are bound to is missing.
    missing: Mutex<HashMap<String, Timestamp>>,
}

impl Controller for PodGarbageCollector {
    const NAME: &'static str = "pod-garbage";
    const WORKERS: usize = 1;

    fn affected(&self, change: &Change, _: &Cache) -> Vec<ObjectName> {
        match &change.changed {
            Changed::Node(delta) if delta.previous.is_none() || delta.current.is_none() => {
                everything()
            }
            _ => Vec::new(),
        }
    }

    async fn reconcile(&self, context: &Context, _: &ObjectName) -> Result<Outcome, WriteError> {
        let cache = context.cache();
        let mut missing = {
            let missing = self
                .missing
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            missing.clone()
        };
        let doomed = plan(
            &cache,
            &mut missing,
            context.config.ended_pods_max,
            Timestamp::now(),
        );
        *self
            .missing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = missing;
        let mut outcome = Outcome::default();
        outcome.again_after(LOOK_AGAIN);
        for (name, uid) in doomed {
            info!(pod = %name, "removing a pod that nobody else will");
            let written = context
                .writer
                .delete(&resource::POD, &name, Some(&uid), Grace::Immediate)
                .await?;
            outcome.wrote(written);
        }
        Ok(outcome)
    }
}

fn plan(
    cache: &Cache,
    missing: &mut HashMap<String, Timestamp>,
    ended_max: usize,
    now: Timestamp,
) -> Vec<(ObjectName, String)> {
    let is_missing = |node: &str| cache.nodes.get(&ObjectName::cluster(node)).is_none();
    missing.retain(|node, _| is_missing(node));
    let mut doomed: Vec<&Pod> = Vec::new();
    let mut ended: Vec<&Pod> = Vec::new();
    for pod in cache.pods.iter() {
        match pod_state::node(pod) {
            Some(node) if is_missing(node) => {
                let since = *missing.entry(node.to_owned()).or_insert(now);
                if now.duration_since(since) >= QUARANTINE {
                    doomed.push(pod);
                }
            }
            None if pod.is_terminating() => doomed.push(pod),
            _ if pod_state::has_ended(pod) => ended.push(pod),
            _ => {}
        }
    }
    ended.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let excess = ended.len().saturating_sub(ended_max);
    doomed.extend(ended.into_iter().take(excess));
    doomed
        .into_iter()
        .map(|pod| (pod.object_name(), pod.uid().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn pods_of_a_missing_node_go_after_the_quarantine_and_ended_ones_beyond_the_limit() {
        let node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
        let pods = [
            pod("here", Some("n1"), "Running"),
            pod("lost", Some("n2"), "Running"),
            pod("old", Some("n1"), "Succeeded"),
            pod("older", Some("n1"), "Failed"),
        ];
        let cache = Cache::with([node], pods);
        let mut missing = HashMap::new();
        let start = Timestamp::UNIX_EPOCH;
        let names = |doomed: Vec<(ObjectName, String)>| -> Vec<String> {
            doomed.into_iter().map(|(name, _)| name.name).collect()
        };
        assert_eq!(
            names(plan(&cache, &mut missing, 2, start)),
            Vec::<String>::new()
        );
        assert_eq!(
            names(plan(&cache, &mut missing, 1, start + QUARANTINE)),
            ["lost", "old"]
        );
    }
}
