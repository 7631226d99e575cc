use k8s_openapi::api::core::v1::Node;

use super::{PLAIN, flag, through};
use crate::resource::{Resource, Scope};

/// A machine that runs pods.
pub static NODE: Resource = Resource {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    scope: Scope::Cluster,
    status: true,
    selectable_fields: &[flag("spec.unschedulable", "/spec/unschedulable")],
    type_name: "core.v1.Node",
    normalize: through::<Node>,
    ..PLAIN
};
