use k8s_openapi::api::apps::v1::Deployment;

use super::workload::default_deployment;
use super::{PLAIN, REPLICAS, through};
use crate::resource::Resource;

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
    type_name: "apps.v1.Deployment",
    normalize: through::<Deployment>,
    default: default_deployment,
    ..PLAIN
};
