use k8s_openapi::api::core::v1::Service;

use super::{PLAIN, field, through};
use crate::resource::Resource;

/// An address for a changing set of pods.
pub static SERVICE: Resource = Resource {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    status: true,
    selectable_fields: &[
        field("spec.clusterIP", "/spec/clusterIP"),
        field("spec.type", "/spec/type"),
    ],
    type_name: "core.v1.Service",
    normalize: through::<Service>,
    ..PLAIN
};
