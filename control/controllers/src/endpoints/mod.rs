//! Where a Service's traffic may go: EndpointSlices, and the older Endpoints beside them.

pub(crate) mod mirror;
mod node_dns;
mod slices;
mod subsets;
mod target;

use fairlead_api::resource;
use fairlead_objects::{Cache, Change, Changed, Grace, Object, ObjectName, WriteError};
use k8s_openapi::api::{
    core::v1::{Endpoints, Pod, Service},
    discovery::v1::EndpointSlice,
};

pub(crate) use self::node_dns::NodeDnsController;
use self::slices::Action;
pub(crate) use self::slices::SERVICE_LABEL;
use crate::controller::{Context, Controller, Outcome};

/// The controller of EndpointSlices and Endpoints.
pub(crate) struct EndpointsController;

impl Controller for EndpointsController {
    const NAME: &'static str = "endpointslice";
    const WORKERS: usize = 4;

    fn affected(&self, change: &Change, cache: &Cache) -> Vec<ObjectName> {
        let namespace = &change.name.namespace;
        match &change.changed {
            Changed::Service(_) | Changed::Endpoints(_) => vec![change.name.clone()],
            Changed::EndpointSlice(delta) => delta
                .sides()
                .filter_map(|slice| slices::service(slice))
                .map(|service| ObjectName::new(namespace, service))
                .collect(),
            Changed::Pod(delta) => cache
                .services
                .in_namespace(namespace)
                .filter(|service| delta.sides().any(|pod| target::is_selected(service, pod)))
                .map(|service| service.object_name())
                .collect(),
            _ => Vec::new(),
        }
    }

    async fn reconcile(&self, context: &Context, name: &ObjectName) -> Result<Outcome, WriteError> {
        let cache = context.cache();
        let mut outcome = Outcome::default();
        // Slices of a service that is gone go by garbage collection.
        let Some(service) = cache
            .services
            .get(name)
            .filter(|service| !service.is_terminating())
        else {
            return Ok(outcome);
        };
        if !target::has_selector(service) {
            // Its endpoints somebody else keeps, as slices or as Endpoints.
            let present = slices_of(&cache, name, mirror::is_ours);
            let endpoints = cache.endpoints.get(name).map(|endpoints| &**endpoints);
            for action in mirror::plan(service, endpoints, &present) {
                outcome.wrote(apply(context, action).await?);
            }
            return Ok(outcome);
        }
        let pods: Vec<&Pod> = cache
            .pods
            .in_namespace(&name.namespace)
            .filter(|pod| target::is_selected(service, pod))
            .map(|pod| &**pod)
            .collect();
        let present = slices_of(&cache, name, |slice| slices::is_ours(slice, name));
        // Mirrors of a time without a selector.
        for action in mirror::plan(service, None, &slices_of(&cache, name, mirror::is_ours)) {
            outcome.wrote(apply(context, action).await?);
        }
        for action in slices::plan(service, &pods, &present) {
            outcome.wrote(apply(context, action).await?);
        }
        outcome.wrote(write_endpoints(context, &cache, service, &pods).await?);
        Ok(outcome)
    }
}

fn slices_of<'a>(
    cache: &'a Cache,
    service: &'a ObjectName,
    is_ours: impl Fn(&EndpointSlice) -> bool,
) -> Vec<&'a EndpointSlice> {
    cache
        .endpoint_slices
        .in_namespace(&service.namespace)
        .map(|slice| &**slice)
        .filter(|slice| slices::service(slice) == Some(&service.name) && is_ours(slice))
        .collect()
}

async fn apply(
    context: &Context,
    action: Action,
) -> Result<Option<fairlead_api::Revision>, WriteError> {
    let writer = &context.writer;
    match action {
        Action::Create(slice) => writer
            .create(*slice)
            .await
            .map(|written| Some(written.revision)),
        Action::Update { name, uid, slice } => {
            writer
                .update::<EndpointSlice>(&name, Some(&uid), |present| {
                    present.endpoints = slice.endpoints.clone();
                    present.ports = slice.ports.clone();
                    present.metadata.labels = slice.metadata.labels.clone();
                    present.metadata.annotations = slice.metadata.annotations.clone();
                })
                .await
        }
        Action::Delete { name, uid } => {
            writer
                .delete(
                    &resource::ENDPOINT_SLICE,
                    &name,
                    Some(&uid),
                    Grace::Immediate,
                )
                .await
        }
    }
}

async fn write_endpoints(
    context: &Context,
    cache: &Cache,
    service: &Service,
    pods: &[&Pod],
) -> Result<Option<fairlead_api::Revision>, WriteError> {
    let name = service.object_name();
    let wanted = subsets::endpoints(service, pods);
    match cache.endpoints.get(&name) {
        None => match context.writer.create(wanted).await {
            Ok(written) => Ok(Some(written.revision)),
            Err(WriteError::Exists(_)) => Ok(None),
            Err(cause) => Err(cause),
        },
        Some(present) if present.subsets == wanted.subsets => Ok(None),
        Some(_) => {
            let change = |present: &mut Endpoints| present.subsets = wanted.subsets.clone();
            context
                .writer
                .update::<Endpoints>(&name, None, change)
                .await
        }
    }
}
