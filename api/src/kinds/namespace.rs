use k8s_openapi::api::core::v1::Namespace;
use serde_json::Value;

use super::columns::{AGE, NAME, column, text};
use super::defaults::{object, set};
use super::validation::metadata;
use super::{PLAIN, field, through};
use crate::names;
use crate::resource::{Column, Resource, Scope, Subresource};
use crate::status::FieldError;

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
    columns: COLUMNS,
    type_name: "core.v1.Namespace",
    normalize: through::<Namespace>,
    default,
    validate,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Status", |namespace, _| {
        text(namespace, "/status/phase").into()
    }),
    AGE,
];

/// The phase, and the label by which selectors find a namespace by its name.
fn default(namespace: &mut Value) {
    if let Some(status) = object(namespace, "status") {
        set(status, "phase", "Active");
    }
    let name = namespace.pointer("/metadata/name").cloned();
    if let Some(Value::String(name)) = name
        && let Some(metadata) = object(namespace, "metadata")
        && let Some(labels) = object(metadata, "labels")
    {
        labels["kubernetes.io/metadata.name"] = name.into();
    }
}

fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    metadata(new, old, names::dns_1123_label)
}
