use k8s_openapi::api::apps::v1::Deployment;

use super::columns::{AGE, NAME, column, containers, number, selector, wide};
use super::workload::{default_deployment, validate_deployment};
use super::{PLAIN, REPLICAS, through};
use crate::resource::{Column, Resource};

/// Replicas of a pod, rolled from one template to the next.
pub static DEPLOYMENT: Resource = Resource {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    status: true,
    scale: Some(REPLICAS),
    columns: COLUMNS,
    type_name: "apps.v1.Deployment",
    normalize: through::<Deployment>,
    default: default_deployment,
    validate: validate_deployment,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", |deployment, _| {
        let ready = number(deployment, "/status/readyReplicas");
        format!("{ready}/{}", number(deployment, "/spec/replicas")).into()
    }),
    column("Up-to-date", |deployment, _| {
        number(deployment, "/status/updatedReplicas").into()
    }),
    column("Available", |deployment, _| {
        number(deployment, "/status/availableReplicas").into()
    }),
    AGE,
    wide("Containers", |deployment, _| {
        containers(deployment, "/spec/template/spec/containers", "name")
    }),
    wide("Images", |deployment, _| {
        containers(deployment, "/spec/template/spec/containers", "image")
    }),
    wide("Selector", |deployment, _| {
        selector(deployment, "/spec/selector")
    }),
];
