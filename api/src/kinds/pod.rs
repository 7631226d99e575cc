mod columns;
mod containers;
mod defaults;
mod validation;

use k8s_openapi::api::core::v1::Pod;

pub(super) use defaults::pod_spec as default_pod_spec;
pub(super) use validation::pod_spec as validate_pod_spec;

use super::{PLAIN, field, flag, through};
use crate::resource::{Resource, Subresource};

/// Containers that share a node, a network namespace and a fate.
pub static POD: Resource = Resource {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    status: true,
    subresources: &[
        Subresource {
            name: "binding",
            group: "",
            version: "v1",
            kind: "Binding",
            verbs: &["create"],
        },
        Subresource {
            name: "eviction",
            group: "policy",
            version: "v1",
            kind: "Eviction",
            verbs: &["create"],
        },
        Subresource {
            name: "log",
            group: "",
            version: "v1",
            kind: "Pod",
            verbs: &["get"],
        },
    ],
    selectable_fields: &[
        field("spec.nodeName", "/spec/nodeName"),
        field("spec.restartPolicy", "/spec/restartPolicy"),
        field("spec.schedulerName", "/spec/schedulerName"),
        field("spec.serviceAccountName", "/spec/serviceAccountName"),
        flag("spec.hostNetwork", "/spec/hostNetwork"),
        field("status.phase", "/status/phase"),
        field("status.podIP", "/status/podIP"),
        field("status.nominatedNodeName", "/status/nominatedNodeName"),
    ],
    columns: columns::COLUMNS,
    type_name: "core.v1.Pod",
    normalize: through::<Pod>,
    default: defaults::pod,
    validate: validation::pod,
    ..PLAIN
};
