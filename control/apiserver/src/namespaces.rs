//! What is particular about namespaces: they hold other objects, and are emptied before they go.

use fairlead_api::{
    resource::{NAMESPACE, Resource},
    status::Status,
};
use fairlead_store::{Check, Expect, Snapshot};
use serde_json::{Value, json};

use crate::{metadata, response, subject::Subject};

/// The finalizer that keeps a namespace until the controller has emptied it. It is in `spec`, not
/// in `metadata`.
const FINALIZER: &str = "kubernetes";

/// The condition under which an object may be created in a namespace: that it exists and is not
/// going away, and is so still when the transaction applies.
pub(crate) fn admit(
    snapshot: &Snapshot,
    namespace: &str,
    resource: &'static Resource,
    name: &str,
) -> Result<Check, Status> {
    let home = Subject {
        resource: &NAMESPACE,
        namespace: None,
        name: namespace,
    };
    let entry = snapshot.get(&home.key()).ok_or_else(|| home.not_found())?;
    let object = response::decode(&entry.value)?;
    if metadata::is_terminating(&object) {
        return Err(Status::namespace_terminating(resource, name, namespace));
    }
    Ok(Check {
        key: home.key(),
        expect: Expect::Revision(entry.revision),
    })
}

/// Completes a new namespace.
pub(crate) fn prepare(namespace: &mut Value) {
    let name = metadata::name(namespace).to_owned();
    let labels = metadata::metadata_mut(namespace)
        .entry("labels")
        .or_insert_with(|| json!({}));
    labels["kubernetes.io/metadata.name"] = name.into();
    metadata::member_mut(namespace, "spec").insert("finalizers".to_owned(), json!([FINALIZER]));
    metadata::member_mut(namespace, "status").insert("phase".to_owned(), "Active".into());
}

/// Marks a namespace that is being deleted.
pub(crate) fn terminate(namespace: &mut Value) {
    metadata::member_mut(namespace, "status").insert("phase".to_owned(), "Terminating".into());
}

/// Whether the controller has emptied it.
pub(crate) fn is_finalized(namespace: &Value) -> bool {
    namespace
        .pointer("/spec/finalizers")
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty)
}
