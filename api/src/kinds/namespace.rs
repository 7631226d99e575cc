use k8s_openapi::api::core::v1::Namespace;

use super::{PLAIN, field, through};
use crate::resource::{Resource, Scope, Subresource};

/// A scope for names.
pub static NAMESPACE: Resource = Resource {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    scope: Scope::Cluster,
    status: true,
    subresources: &[Subresource {
        name: "finalize",
        group: "",
        version: "v1",
        kind: "Namespace",
        verbs: &["update"],
    }],
    selectable_fields: &[field("status.phase", "/status/phase")],
    type_name: "core.v1.Namespace",
    normalize: through::<Namespace>,
    ..PLAIN
};
