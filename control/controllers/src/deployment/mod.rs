//! Deployments: which ReplicaSets there should be, and how large, so that the pods move from one
//! template to the next at the pace the strategy allows.
//!
//! The steps and their arithmetic are those of upstream's `pkg/controller/deployment`.

mod history;
mod plan;
mod scale;
mod sets;
mod status;
mod strategy;
mod template;

use fairlead_api::resource;
use fairlead_objects::{
    About, Cache, Change, Changed, EventType, Grace, Object, ObjectName, WriteError,
};
use jiff::Timestamp;
use k8s_openapi::{
    Resource as _,
    api::apps::v1::{Deployment, ReplicaSet},
};

use self::plan::{Action, Observed, plan};
use crate::{
    controller::{Context, Controller, Outcome},
    replica_set::claim,
};

/// The controller of Deployments.
pub(crate) struct DeploymentController;

impl Controller for DeploymentController {
    const NAME: &'static str = "deployment";

    fn affected(&self, change: &Change, cache: &Cache) -> Vec<ObjectName> {
        match &change.changed {
            Changed::Deployment(_) => vec![change.name.clone()],
            Changed::ReplicaSet(delta) => {
                let mut names: Vec<_> = delta
                    .sides()
                    .filter_map(|set| claim::controller(set.as_ref(), Deployment::KIND))
                    .map(|owner| ObjectName::new(&change.name.namespace, &owner.name))
                    .collect();
                // An orphan: whoever selects it may adopt it.
                if names.is_empty() {
                    names = delta
                        .current
                        .iter()
                        .flat_map(|set| {
                            cache
                                .deployments
                                .in_namespace(&change.name.namespace)
                                .filter(|deployment| {
                                    claim::selects(deployment.as_ref(), set.as_ref())
                                })
                        })
                        .map(|deployment| deployment.object_name())
                        .collect();
                }
                names
            }
            // A Recreate rollout waits for the last old pod to go.
            Changed::Pod(delta) => delta
                .sides()
                .filter_map(|pod| claim::controller(pod.as_ref(), ReplicaSet::KIND))
                .map(|owner| ObjectName::new(&change.name.namespace, &owner.name))
                .filter_map(|set| cache.replica_sets.get(&set))
                .filter_map(|set| claim::controller(set.as_ref(), Deployment::KIND))
                .map(|owner| ObjectName::new(&change.name.namespace, &owner.name))
                .collect(),
            _ => Vec::new(),
        }
    }

    async fn reconcile(&self, context: &Context, name: &ObjectName) -> Result<Outcome, WriteError> {
        let cache = context.cache();
        let Some(deployment) = cache.deployments.get(name) else {
            return Ok(Outcome::default());
        };
        let observed = observe(&cache, deployment);
        let plan = plan(deployment, &observed, Timestamp::now());
        let mut outcome = Outcome::default();
        if let Some(delay) = plan.again {
            outcome.again_after(delay);
        }
        for action in plan.actions {
            apply(context, deployment, action, &mut outcome).await?;
        }
        Ok(outcome)
    }
}

fn observe(cache: &Cache, deployment: &Deployment) -> Observed {
    let namespace = deployment.object_name().namespace;
    let sets: Vec<ReplicaSet> = cache
        .replica_sets
        .in_namespace(&namespace)
        .filter(|set| {
            let owner = claim::any_controller(set.as_ref());
            owner.is_some_and(|owner| owner.uid == deployment.uid())
                || (owner.is_none()
                    && !set.is_terminating()
                    && claim::selects(deployment, set.as_ref()))
        })
        .map(|set| ReplicaSet::clone(set))
        .collect();
    let running = |set: &ReplicaSet| {
        cache
            .pods
            .controlled_by(set.uid())
            .any(|pod| !crate::pod_state::has_ended(pod))
    };
    let with_pods = sets
        .iter()
        .filter(|set| running(set))
        .map(|set| set.uid().to_owned())
        .collect();
    Observed { sets, with_pods }
}

async fn apply(
    context: &Context,
    deployment: &Deployment,
    action: Action,
    outcome: &mut Outcome,
) -> Result<(), WriteError> {
    let writer = &context.writer;
    let name = deployment.object_name();
    let uid = deployment.uid();
    match action {
        Action::Adopt { set, uid: set_uid } => {
            let owner = claim::owner(deployment);
            let written = writer
                .update::<ReplicaSet>(
                    &ObjectName::new(&name.namespace, set),
                    Some(&set_uid),
                    |set| {
                        claim::adopt(&mut set.metadata, &owner);
                    },
                )
                .await?;
            outcome.wrote(written);
        }
        Action::Release { set, uid: set_uid } => {
            let written = writer
                .update::<ReplicaSet>(
                    &ObjectName::new(&name.namespace, set),
                    Some(&set_uid),
                    |set| {
                        claim::release(&mut set.metadata, uid);
                    },
                )
                .await?;
            outcome.wrote(written);
        }
        Action::Create(set) => match writer.create(*set.clone()).await {
            Ok(written) => outcome.wrote(Some(written.revision)),
            // Somebody else's set has the name that the hash gives ours: another hash.
            Err(WriteError::Exists(_)) => {
                let written = writer
                    .update::<Deployment>(&name, Some(uid), |deployment| {
                        let status = deployment.status.get_or_insert_default();
                        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                    })
                    .await?;
                outcome.wrote(written);
            }
            Err(cause) => return Err(cause),
        },
        Action::Update {
            set,
            uid: set_uid,
            replicas,
            annotations,
            min_ready_seconds,
        } => {
            let written = writer
                .update::<ReplicaSet>(
                    &ObjectName::new(&name.namespace, set),
                    Some(&set_uid),
                    |set| {
                        let spec = &mut set.spec;
                        spec.replicas = Some(replicas);
                        spec.min_ready_seconds = min_ready_seconds;
                        let kept = set.metadata.annotations.get_or_insert_default();
                        kept.extend(annotations.clone());
                    },
                )
                .await?;
            outcome.wrote(written);
        }
        Action::Delete { set, uid: set_uid } => {
            let set = ObjectName::new(&name.namespace, set);
            let written = writer
                .delete(&resource::REPLICA_SET, &set, Some(&set_uid), Grace::Pod)
                .await?;
            outcome.wrote(written);
        }
        Action::Annotate { key, value } => {
            let written = writer
                .update::<Deployment>(&name, Some(uid), |deployment| {
                    let annotations = deployment.metadata.annotations.get_or_insert_default();
                    annotations.insert(key.clone(), value.clone());
                })
                .await?;
            outcome.wrote(written);
        }
        Action::Status(status) => {
            let written = writer
                .update::<Deployment>(&name, Some(uid), |deployment| {
                    let collisions = deployment.status.take().and_then(|old| old.collision_count);
                    deployment.status = Some((*status).clone());
                    deployment.status.get_or_insert_default().collision_count = collisions;
                })
                .await?;
            outcome.wrote(written);
        }
        Action::Event { reason, message } => {
            let recorder = context.recorder.speaking_as("deployment-controller", None);
            recorder
                .record(
                    &About::object(deployment),
                    EventType::Normal,
                    reason,
                    message,
                )
                .await;
        }
    }
    Ok(())
}
