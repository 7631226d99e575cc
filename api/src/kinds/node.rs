use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use super::defaults::set;
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
    default,
    ..PLAIN
};

/// All of a node is for pods unless it says otherwise.
fn default(node: &mut Value) {
    if let Some(capacity) = node.pointer("/status/capacity").cloned() {
        set(&mut node["status"], "allocatable", capacity);
    }
}
