//! Objects as the store keeps them: serialised once, with a hole for the revision, beside the
//! index that selectors ask.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::resource::{self, Resource, Scope};
use crate::{Index, RevisionedBytes};

/// A serialised object and its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The JSON, with the hole at `metadata.resourceVersion`.
    pub bytes: RevisionedBytes,
    /// Its labels and selectable fields.
    pub index: Arc<Index>,
}

/// Serialises an object of `resource`. `apiVersion` and `kind` are always written, first, and
/// whatever `metadata.resourceVersion` it carries is left out in favour of the hole.
pub fn encode(resource: &'static Resource, object: &Value) -> Encoded {
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(b"{\"kind\":");
    write(&mut head, &resource.kind);
    head.extend_from_slice(b",\"apiVersion\":");
    write(&mut head, &resource.api_version());
    head.extend_from_slice(b",\"metadata\":{\"resourceVersion\":\"");

    let mut tail = Vec::with_capacity(1024);
    tail.push(b'"');
    let nothing = Map::new();
    let metadata = object.get("metadata").and_then(Value::as_object);
    for (key, value) in metadata.unwrap_or(&nothing) {
        if key != "resourceVersion" {
            write_member(&mut tail, key, value);
        }
    }
    tail.push(b'}');
    for (key, value) in object.as_object().unwrap_or(&nothing) {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            write_member(&mut tail, key, value);
        }
    }
    tail.push(b'}');

    Encoded {
        bytes: RevisionedBytes {
            head: head.into(),
            tail: tail.into(),
        },
        index: Arc::new(index(resource, object)),
    }
}

/// Serialises a typed object. Its type must be in the table of resources.
///
/// # Panics
/// If `K` is not in the table, which a test of the caller finds.
pub fn encode_typed<K: k8s_openapi::Resource + Serialize>(object: &K) -> Encoded {
    let value = serde_json::to_value(object).expect("API types serialise to JSON");
    encode(resource::of::<K>(), &value)
}

/// What selectors may ask of this object.
pub fn index(resource: &Resource, object: &Value) -> Index {
    let mut index = Index::default();
    let labels = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object);
    for (key, value) in labels.into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        index.labels.insert(key.clone(), value.to_owned());
    }
    let mut field = |name: &str, pointer: &str, absent: &str| {
        let text = match object.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => absent.to_owned(),
            Some(other) => other.to_string(),
        };
        index.fields.insert(name.to_owned(), text);
    };
    field("metadata.name", "/metadata/name", "");
    if resource.scope == Scope::Namespaced {
        field("metadata.namespace", "/metadata/namespace", "");
    }
    for selectable in resource.selectable_fields {
        field(selectable.name, selectable.pointer, selectable.absent);
    }
    index
}

fn write_member(out: &mut Vec<u8>, key: &str, value: &Value) {
    out.push(b',');
    write(out, &key);
    out.push(b':');
    write(out, value);
}

fn write(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).expect("strings and JSON values serialise into memory");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Revision;
    use crate::resource::{NODE, POD};

    #[test]
    fn a_stamped_object_carries_the_revision_it_was_stored_at() {
        let object = json!({
            "metadata": { "name": "a", "resourceVersion": "7", "labels": { "app": "web" } },
            "spec": { "nodeName": "n1" },
        });
        let encoded = encode(&POD, &object);
        let stored: Value =
            serde_json::from_slice(&encoded.bytes.stamp(Revision(42))).expect("JSON");
        assert_eq!(
            stored,
            json!({
                "kind": "Pod", "apiVersion": "v1",
                "metadata": { "resourceVersion": "42", "name": "a", "labels": { "app": "web" } },
                "spec": { "nodeName": "n1" },
            })
        );
    }

    #[test]
    fn an_object_without_metadata_is_still_valid_json() {
        let encoded = encode(&POD, &json!({}));
        let stored: Value =
            serde_json::from_slice(&encoded.bytes.stamp(Revision(1))).expect("JSON");
        assert_eq!(stored["metadata"]["resourceVersion"], "1");
    }

    #[test]
    fn the_index_holds_labels_and_selectable_fields_with_their_defaults() {
        let index = index(
            &POD,
            &json!({
                "metadata": { "name": "a", "namespace": "ns", "labels": { "app": "web" } },
                "spec": { "nodeName": "n1" },
            }),
        );
        assert_eq!(index.labels["app"], "web");
        assert_eq!(index.fields["metadata.namespace"], "ns");
        assert_eq!(index.fields["spec.nodeName"], "n1");
        assert_eq!(index.fields["status.phase"], "");
        let index = super::index(&NODE, &json!({ "metadata": { "name": "n1" } }));
        assert_eq!(index.fields["spec.unschedulable"], "false");
    }
}
