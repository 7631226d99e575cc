//! ReplicaSets: as many pods of one template as asked for.

pub(crate) mod claim;
mod plan;
mod rank;

use fairlead_api::resource;
use fairlead_objects::{
    About, Cache, Change, Changed, EventType, Grace, Object, ObjectName, WriteError,
};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::{
    Resource as _,
    api::{
        apps::v1::{ReplicaSet, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use self::plan::{Plan, plan};
use crate::controller::{Context, Controller, Outcome};

/// The controller of ReplicaSets.
pub(crate) struct ReplicaSetController;

impl Controller for ReplicaSetController {
    const NAME: &'static str = "replicaset";
    const WORKERS: usize = 5;

    fn affected(&self, change: &Change, cache: &Cache) -> Vec<ObjectName> {
        match &change.changed {
            Changed::ReplicaSet(_) => vec![change.name.clone()],
            Changed::Pod(delta) => {
                let mut names: Vec<_> = delta
                    .sides()
                    .filter_map(|pod| claim::controller(pod.as_ref(), ReplicaSet::KIND))
                    .map(|owner| ObjectName::new(&change.name.namespace, &owner.name))
                    .collect();
                names.dedup();
                let orphan = delta
                    .current
                    .iter()
                    .filter(|pod| claim::any_controller(pod.as_ref()).is_none());
                for pod in orphan {
                    let sets = cache.replica_sets.in_namespace(&change.name.namespace);
                    names.extend(
                        sets.filter(|set| claim::selects(set.as_ref(), pod.as_ref()))
                            .map(|set| set.object_name()),
                    );
                }
                names
            }
            _ => Vec::new(),
        }
    }

    async fn reconcile(&self, context: &Context, name: &ObjectName) -> Result<Outcome, WriteError> {
        let cache = context.cache();
        let Some(set) = cache.replica_sets.get(name) else {
            return Ok(Outcome::default());
        };
        let pods: Vec<&Pod> = cache
            .pods
            .in_namespace(&name.namespace)
            .map(|pod| &**pod)
            .collect();
        let plan = plan(set, &pods, Timestamp::now());
        apply(context, set, plan).await
    }
}

async fn apply(context: &Context, set: &ReplicaSet, plan: Plan) -> Result<Outcome, WriteError> {
    let mut outcome = Outcome {
        again: plan.again,
        ..Outcome::default()
    };
    let writer = &context.writer;
    let owner = claim::owner(set);
    for (pod, uid) in plan.adopt {
        let adopt = |pod: &mut Pod| claim::adopt(&mut pod.metadata, &owner);
        outcome.wrote(writer.update::<Pod>(&pod, Some(&uid), adopt).await?);
    }
    for (pod, uid) in plan.release {
        let release = |pod: &mut Pod| claim::release(&mut pod.metadata, set.uid());
        outcome.wrote(writer.update::<Pod>(&pod, Some(&uid), release).await?);
    }
    let created = create(context, set, plan.create, &mut outcome).await;
    let deleted = delete(context, set, plan.delete, &mut outcome).await;
    let failure = match (&created, &deleted) {
        (Err(cause), _) => Some(("FailedCreate", cause.to_string())),
        (_, Err(cause)) => Some(("FailedDelete", cause.to_string())),
        (Ok(()), Ok(())) => None,
    };
    let status = plan::with_failure(set, plan.status, failure, Timestamp::now());
    outcome.wrote(write_status(context, set, status).await?);
    created.and(deleted).map(|()| outcome)
}

/// Creates pods in batches that double while they succeed: a template that is refused costs one
/// attempt, not hundreds.
async fn create(
    context: &Context,
    set: &ReplicaSet,
    count: usize,
    outcome: &mut Outcome,
) -> Result<(), WriteError> {
    let recorder = context.recorder.speaking_as("replicaset-controller", None);
    let about = About::object(set);
    let (mut left, mut batch) = (count, 1);
    while left > 0 {
        let size = batch.min(left);
        let created = join_all((0..size).map(|_| context.writer.create(pod(set)))).await;
        for result in created {
            match result {
                Ok(written) => {
                    outcome.wrote(Some(written.revision));
                    let message = format!("Created pod: {}", written.object.object_name().name);
                    recorder
                        .record(&about, EventType::Normal, "SuccessfulCreate", message)
                        .await;
                }
                Err(cause) => {
                    // Its namespace is going: nothing is wrong with the set.
                    if !matches!(cause, WriteError::NamespaceGone(_)) {
                        let message = format!("Error creating: {cause}");
                        recorder
                            .record(&about, EventType::Warning, "FailedCreate", message)
                            .await;
                    }
                    return Err(cause);
                }
            }
        }
        left -= size;
        batch *= 2;
    }
    Ok(())
}

async fn delete(
    context: &Context,
    set: &ReplicaSet,
    pods: Vec<(ObjectName, String)>,
    outcome: &mut Outcome,
) -> Result<(), WriteError> {
    let recorder = context.recorder.speaking_as("replicaset-controller", None);
    let about = About::object(set);
    for (name, uid) in pods {
        let written = context
            .writer
            .delete(&resource::POD, &name, Some(&uid), Grace::Pod)
            .await?;
        outcome.wrote(written);
        let message = format!("Deleted pod: {}", name.name);
        recorder
            .record(&about, EventType::Normal, "SuccessfulDelete", message)
            .await;
    }
    Ok(())
}

async fn write_status(
    context: &Context,
    set: &ReplicaSet,
    status: ReplicaSetStatus,
) -> Result<Option<fairlead_api::Revision>, WriteError> {
    if set.status.as_ref() == Some(&status) {
        return Ok(None);
    }
    let change = |set: &mut ReplicaSet| set.status = Some(status.clone());
    context
        .writer
        .update::<ReplicaSet>(&set.object_name(), Some(set.uid()), change)
        .await
}

/// One pod of the set's template.
fn pod(set: &ReplicaSet) -> Pod {
    let template = set.spec.template.clone().unwrap_or_default();
    let name = set.object_name();
    let metadata = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name.name)),
            namespace: Some(name.namespace),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![claim::owner(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: Some(k8s_openapi::api::core::v1::PodStatus {
            phase: Some("Pending".to_owned()),
            ..Default::default()
        }),
    }
}
