use k8s_openapi::api::apps::v1::ReplicaSet;

use super::workload::default_replicas;
use super::{PLAIN, REPLICAS, field, through};
use crate::resource::Resource;

/// Replicas of a pod.
pub static REPLICA_SET: Resource = Resource {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    status: true,
    scale: Some(REPLICAS),
    selectable_fields: &[field("status.replicas", "/status/replicas")],
    type_name: "apps.v1.ReplicaSet",
    normalize: through::<ReplicaSet>,
    default: default_replicas,
    ..PLAIN
};
