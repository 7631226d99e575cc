//! Reading and writing `metadata` of a decoded object.

use serde_json::{Map, Value};

/// `/metadata/<field>` as a string; empty counts as absent, as in Kubernetes' JSON.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object
        .get("metadata")?
        .get(field)?
        .as_str()
        .filter(|text| !text.is_empty())
}

/// `metadata.name`, empty when absent.
pub(crate) fn name(object: &Value) -> &str {
    text(object, "name").unwrap_or_default()
}

/// Whether deletion has begun.
pub(crate) fn is_terminating(object: &Value) -> bool {
    text(object, "deletionTimestamp").is_some()
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// Replaces `metadata.finalizers`; an empty list removes the field.
pub(crate) fn set_finalizers(object: &mut Value, finalizers: &[&str]) {
    let metadata = metadata_mut(object);
    if finalizers.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
}

/// Sets `/metadata/<field>`, or removes it.
pub(crate) fn set(object: &mut Value, field: &str, value: Option<Value>) {
    let metadata = metadata_mut(object);
    match value {
        Some(value) => {
            metadata.insert(field.to_owned(), value);
        }
        None => {
            metadata.shift_remove(field);
        }
    }
}

/// `metadata` as a map, made when it is missing or not one.
pub(crate) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    member_mut(object, "metadata")
}

/// A member of an object as a map, made when it is missing or not one.
pub(crate) fn member_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let member = object
        .as_object_mut()
        .expect("made an object above")
        .entry(field)
        .or_insert_with(|| Value::Object(Map::new()));
    if !member.is_object() {
        *member = Value::Object(Map::new());
    }
    member.as_object_mut().expect("made an object above")
}

/// RFC 3339 with whole seconds, as Kubernetes writes times.
pub(crate) fn timestamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
