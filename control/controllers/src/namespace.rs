//! Namespaces: what every one has, and the emptying of those that go.

use std::time::Duration;

use fairlead_api::resource::{self, RESOURCES, Resource, Scope};
use fairlead_objects::{Cache, Change, Changed, Grace, Object, ObjectName, WriteError};
use fairlead_store::Key;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use crate::controller::{Context, Controller, Outcome};

/// The finalizer that keeps a namespace until it is empty.
const FINALIZER: &str = "kubernetes";
/// How soon a namespace is looked at again whose objects take their time (pods do).
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The controller of namespaces.
pub(crate) struct NamespaceController;

impl Controller for NamespaceController {
    const NAME: &'static str = "namespace";

    fn affected(&self, change: &Change, _: &Cache) -> Vec<ObjectName> {
        match &change.changed {
            Changed::Namespace(_) => vec![change.name.clone()],
            Changed::ServiceAccount(_) => vec![ObjectName::cluster(&change.name.namespace)],
            _ => Vec::new(),
        }
    }

    async fn reconcile(&self, context: &Context, name: &ObjectName) -> Result<Outcome, WriteError> {
        let cache = context.cache();
        let Some(namespace) = cache.namespaces.get(name) else {
            return Ok(Outcome::default());
        };
        let mut outcome = Outcome::default();
        if !namespace.is_terminating() {
            let account = ObjectName::new(&name.name, "default");
            if cache.service_accounts.get(&account).is_none() {
                match context.writer.create(service_account(&name.name)).await {
                    Ok(written) => outcome.wrote(Some(written.revision)),
                    Err(WriteError::Exists(_)) => {}
                    Err(cause) => return Err(cause),
                }
            }
            return Ok(outcome);
        }
        let left = empty(context, &name.name, &mut outcome).await?;
        if left > 0 {
            outcome.wrote(say_what_is_left(context, name, left).await?);
            outcome.again_after(LOOK_AGAIN);
            return Ok(outcome);
        }
        let finalize = |namespace: &mut Namespace| {
            if let Some(finalizers) = namespace
                .spec
                .as_mut()
                .and_then(|spec| spec.finalizers.as_mut())
            {
                finalizers.retain(|finalizer| finalizer != FINALIZER);
            }
        };
        outcome.wrote(
            context
                .writer
                .update::<Namespace>(name, Some(namespace.uid()), finalize)
                .await?,
        );
        Ok(outcome)
    }
}

/// Deletes all that is in a namespace and says how many objects remain. New ones are refused
/// already, so what is gone stays gone.
async fn empty(
    context: &Context,
    namespace: &str,
    outcome: &mut Outcome,
) -> Result<usize, WriteError> {
    let mut left = 0;
    let snapshot = context.writer.store().snapshot();
    for resource in RESOURCES
        .iter()
        .copied()
        .filter(|resource| is_content(resource))
    {
        let prefix = Key::prefix(resource.group, resource.plural, Some(namespace));
        for entry in snapshot.range(&prefix, None) {
            let name = ObjectName::new(namespace, entry.key.name());
            outcome.wrote(
                context
                    .writer
                    .delete(resource, &name, None, Grace::Pod)
                    .await?,
            );
        }
        left += context.writer.store().snapshot().count(&prefix, None);
    }
    Ok(left)
}

fn is_content(resource: &Resource) -> bool {
    resource.scope == Scope::Namespaced
}

async fn say_what_is_left(
    context: &Context,
    name: &ObjectName,
    left: usize,
) -> Result<Option<fairlead_api::Revision>, WriteError> {
    const KIND: &str = "NamespaceContentRemaining";
    let message = format!("Some resources are remaining: {left} objects");
    let change = |namespace: &mut Namespace| {
        let conditions = namespace
            .status
            .get_or_insert_default()
            .conditions
            .get_or_insert_default();
        let since = conditions
            .iter()
            .find(|condition| condition.type_ == KIND)
            .and_then(|condition| condition.last_transition_time.clone());
        conditions.retain(|condition| condition.type_ != KIND);
        conditions.push(NamespaceCondition {
            type_: KIND.to_owned(),
            status: "True".to_owned(),
            reason: Some("SomeResourcesRemain".to_owned()),
            message: Some(message.clone()),
            last_transition_time: since.or(Some(Time(Timestamp::now()))),
        });
    };
    context.writer.update::<Namespace>(name, None, change).await
}

fn service_account(namespace: &str) -> ServiceAccount {
    ServiceAccount {
        metadata: ObjectMeta {
            name: Some("default".to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    }
}

/// A namespace as the API would create it.
pub(crate) fn active(name: &str) -> Namespace {
    Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(
                [(
                    format!("{}/metadata.name", "kubernetes.io"),
                    name.to_owned(),
                )]
                .into(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(k8s_openapi::api::core::v1::NamespaceSpec {
            finalizers: Some(vec![FINALIZER.to_owned()]),
        }),
        status: Some(k8s_openapi::api::core::v1::NamespaceStatus {
            phase: Some("Active".to_owned()),
            ..Default::default()
        }),
    }
}

/// The key of a namespace.
pub(crate) fn key(name: &str) -> Key {
    ObjectName::cluster(name).key(&resource::NAMESPACE)
}
