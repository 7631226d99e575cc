use k8s_openapi::api::apps::v1::ReplicaSet;

use super::columns::{AGE, NAME, containers, count, number, selector, wide};
use super::workload::{default_replicas, validate_replica_set};
use super::{PLAIN, REPLICAS, field, through};
use crate::resource::{Column, Resource};

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
    columns: COLUMNS,
    type_name: "apps.v1.ReplicaSet",
    normalize: through::<ReplicaSet>,
    default: default_replicas,
    validate: validate_replica_set,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    count("Desired", |set, _| number(set, "/spec/replicas").into()),
    count("Current", |set, _| number(set, "/status/replicas").into()),
    count("Ready", |set, _| {
        number(set, "/status/readyReplicas").into()
    }),
    AGE,
    wide("Containers", |set, _| {
        containers(set, "/spec/template/spec/containers", "name")
    }),
    wide("Images", |set, _| {
        containers(set, "/spec/template/spec/containers", "image")
    }),
    wide("Selector", |set, _| selector(set, "/spec/selector")),
];
