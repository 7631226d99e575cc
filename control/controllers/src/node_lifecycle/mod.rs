//! Nodes: which of them still answer, and what becomes of the pods of those that do not.

mod eviction;
mod health;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use fairlead_api::resource;
use fairlead_objects::{
    About, Cache, Change, Changed, EventType, Grace, Object, ObjectName, WriteError,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Node, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use tracing::{info, warn};

use self::{eviction::Eviction, health::Health};
use crate::{
    controller::{Context, Controller, Outcome},
    pod_state,
};

/// How often a node is looked at when nothing changes.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The controller of nodes' health.
#[derive(Default)]
pub(crate) struct NodeLifecycle {
    /// When each node's lease was last seen to change, by this member's clock: no two clocks are
    /// compared, and a new leader gives every node its full grace.
    renewals: Mutex<HashMap<String, Renewal>>,
}

#[derive(Clone, PartialEq)]
struct Renewal {
    lease: Option<Timestamp>,
    seen: Timestamp,
}

impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-lifecycle";

    fn affected(&self, change: &Change, _: &Cache) -> Vec<ObjectName> {
        match &change.changed {
            Changed::Node(_) => vec![change.name.clone()],
            Changed::Lease(_) if change.name.namespace == "kube-node-lease" => {
                vec![ObjectName::cluster(&change.name.name)]
            }
            // A pod that is bound to a node with a NoExecute taint must go as well.
            Changed::Pod(delta) => delta
                .current
                .iter()
                .filter(|pod| {
                    delta.previous.as_ref().and_then(|old| pod_state::node(old))
                        != pod_state::node(pod)
                })
                .filter_map(|pod| pod_state::node(pod))
                .map(ObjectName::cluster)
                .collect(),
            _ => Vec::new(),
        }
    }

    async fn reconcile(&self, context: &Context, name: &ObjectName) -> Result<Outcome, WriteError> {
        let cache = context.cache();
        let now = Timestamp::now();
        let Some(node) = cache.nodes.get(name) else {
            self.renewals().remove(&name.name);
            return Ok(Outcome::default());
        };
        let mut outcome = Outcome::default();
        outcome.again_after(LOOK_AGAIN);
        let age = self.lease_age(&cache, &name.name, now);
        let grace =
            SignedDuration::try_from(context.config.node_grace).unwrap_or(SignedDuration::MAX);
        let health = health::judge(node, age > grace);
        let written = context
            .writer
            .update::<Node>(name, Some(node.uid()), |node| {
                health::apply(node, health, now)
            })
            .await?;
        if written.is_some() && health == Health::Unreachable {
            warn!(node = %name, lease_age_seconds = age.as_secs(), "node does not answer");
            let recorder = context.recorder.speaking_as("node-controller", None);
            let message = format!("Node {name} status is now: NodeNotReady");
            recorder
                .record(
                    &About::object(&**node),
                    EventType::Normal,
                    "NodeNotReady",
                    message,
                )
                .await;
        }
        outcome.wrote(written);
        if health == Health::Unreachable {
            for pod in cache
                .pods_on(&name.name)
                .filter(|pod| pod_state::is_ready(pod))
            {
                outcome.wrote(mark_not_ready(context, pod, now).await?);
            }
        }
        self.evict(context, &cache, node, now, &mut outcome).await?;
        Ok(outcome)
    }
}

impl NodeLifecycle {
    fn lease_age(&self, cache: &Cache, node: &str, now: Timestamp) -> SignedDuration {
        let lease = cache.leases.get(&ObjectName::new("kube-node-lease", node));
        let renewed = lease
            .and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref())
            .map(|time| time.0);
        let mut renewals = self.renewals();
        let known = renewals.entry(node.to_owned()).or_insert_with(|| Renewal {
            lease: renewed,
            seen: now,
        });
        if known.lease != renewed {
            *known = Renewal {
                lease: renewed,
                seen: now,
            };
        }
        now.duration_since(known.seen)
    }

    async fn evict(
        &self,
        context: &Context,
        cache: &Cache,
        node: &Node,
        now: Timestamp,
        outcome: &mut Outcome,
    ) -> Result<(), WriteError> {
        for pod in cache
            .pods_on(&node.object_name().name)
            .filter(|pod| pod_state::is_active(pod))
        {
            match eviction::judge(node, pod, now) {
                Eviction::Stays => {}
                Eviction::In(wait) => outcome.again_after(wait),
                Eviction::Now => {
                    let name = pod.object_name();
                    info!(pod = %name, node = %node.object_name(), "evicting: a taint is not tolerated");
                    let recorder = context
                        .recorder
                        .speaking_as("taint-eviction-controller", None);
                    let message = format!("Marking for deletion Pod {name}");
                    let about = About::object(&**pod);
                    recorder
                        .record(&about, EventType::Normal, "TaintManagerEviction", message)
                        .await;
                    let written = context
                        .writer
                        .delete(&resource::POD, &name, Some(pod.uid()), Grace::Pod)
                        .await?;
                    outcome.wrote(written);
                }
            }
        }
        Ok(())
    }

    fn renewals(&self) -> std::sync::MutexGuard<'_, HashMap<String, Renewal>> {
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody can say whether a pod of a silent node serves: no new traffic should go there.
async fn mark_not_ready(
    context: &Context,
    pod: &Pod,
    now: Timestamp,
) -> Result<Option<fairlead_api::Revision>, WriteError> {
    let change = |pod: &mut Pod| {
        let condition = PodCondition {
            type_: "Ready".to_owned(),
            status: "False".to_owned(),
            reason: Some("NodeNotReady".to_owned()),
            message: Some("the pod's node does not answer".to_owned()),
            last_transition_time: Some(Time(now)),
            ..PodCondition::default()
        };
        pod_state::set_condition(pod, condition, now);
    };
    context
        .writer
        .update::<Pod>(&pod.object_name(), Some(pod.uid()), change)
        .await
}
