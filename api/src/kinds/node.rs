use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use super::columns::{AGE, NAME, column, list, or_none, text, wide};
use super::defaults::set;
use super::validation::{metadata, one_of, quantities};
use super::{PLAIN, flag, through};
use crate::names;
use crate::resource::{Column, Resource, Scope};
use crate::status::FieldError;

/// A machine that runs pods.
pub static NODE: Resource = Resource {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    scope: Scope::Cluster,
    status: true,
    selectable_fields: &[flag("spec.unschedulable", "/spec/unschedulable")],
    columns: COLUMNS,
    type_name: "core.v1.Node",
    normalize: through::<Node>,
    default,
    validate,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Status", |node, _| status(node).into()),
    column("Roles", |node, _| roles(node)),
    AGE,
    column("Version", |node, _| {
        text(node, "/status/nodeInfo/kubeletVersion").into()
    }),
    wide("Internal-IP", |node, _| address(node, "InternalIP")),
    wide("External-IP", |node, _| address(node, "ExternalIP")),
    wide("OS-Image", |node, _| {
        or_unknown(node, "/status/nodeInfo/osImage")
    }),
    wide("Kernel-Version", |node, _| {
        or_unknown(node, "/status/nodeInfo/kernelVersion")
    }),
    wide("Container-Runtime", |node, _| {
        or_unknown(node, "/status/nodeInfo/containerRuntimeVersion")
    }),
];

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

fn status(node: &Value) -> String {
    let ready = list(node, "/status/conditions")
        .iter()
        .find(|condition| condition["type"] == "Ready");
    let mut status = match ready {
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Value) -> Value {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role).filter(|role| !role.is_empty()),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or_none(roles.join(","))
}

fn address(node: &Value, kind: &str) -> Value {
    let addresses = list(node, "/status/addresses").iter();
    let mut of_kind = addresses.filter(|address| address["type"] == kind);
    or_none(
        of_kind
            .next()
            .map_or("", |address| text(address, "/address")),
    )
}

fn or_unknown(node: &Value, pointer: &str) -> Value {
    match text(node, pointer) {
        "" => "<unknown>".into(),
        told => told.into(),
    }
}

/// All of a node is for pods unless it says otherwise.
fn default(node: &mut Value) {
    if let Some(capacity) = node.pointer("/status/capacity").cloned() {
        set(&mut node["status"], "allocatable", capacity);
    }
}

fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(new, old, names::dns_1123_subdomain);
    for (position, taint) in list(new, "/spec/taints").iter().enumerate() {
        let at = format!("spec.taints[{position}]");
        for rule in names::qualified_name(text(taint, "/key")) {
            let key = text(taint, "/key");
            errors.push(FieldError::invalid(format!("{at}.key"), key, &rule));
        }
        errors.extend(one_of(
            taint,
            "/effect",
            &format!("{at}.effect"),
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
        ));
    }
    for key in ["capacity", "allocatable"] {
        let (pointer, field) = (format!("/status/{key}"), format!("status.{key}"));
        errors.extend(quantities(new, &pointer, &field));
    }
    errors
}
