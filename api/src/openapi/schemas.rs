use serde_json::{Map, Value, json};

use super::gvk;
use crate::resource::Resource;
use crate::schema::{Field, ListType, Scalar, Shape, Type, type_named};

/// The schemas of these resources and of all they are made of. `prefix` is where references to
/// schemas lead.
pub(super) fn of(resources: &[&Resource], prefix: &str) -> Map<String, Value> {
    let mut schemas = Map::new();
    let mut wanted: Vec<&'static str> = resources.iter().map(|r| r.type_name).collect();
    wanted.push("meta.v1.DeleteOptions");
    while let Some(type_name) = wanted.pop() {
        if schemas.contains_key(&name(type_name)) {
            continue;
        }
        let Some(kind) = type_named(type_name) else {
            continue;
        };
        for field in kind.json_fields() {
            wanted.extend(field.shape.innermost_struct().map(|kind| kind.name));
        }
        schemas.insert(name(type_name), structure(kind, prefix));
    }
    for resource in resources {
        if let Some(Value::Object(schema)) = schemas.get_mut(&name(resource.type_name)) {
            schema.insert(
                "x-kubernetes-group-version-kind".to_owned(),
                json!([gvk(resource)]),
            );
        }
    }
    schemas
}

/// `io.k8s.api.core.v1.Pod`, as clients know `core.v1.Pod`.
pub(super) fn name(type_name: &str) -> String {
    match type_name.strip_prefix("meta.v1.") {
        Some(machinery) => format!("io.k8s.apimachinery.pkg.apis.meta.v1.{machinery}"),
        None => format!("io.k8s.api.{type_name}"),
    }
}

fn structure(kind: &Type, prefix: &str) -> Value {
    let fields = kind.json_fields();
    let properties: Map<String, Value> = fields
        .iter()
        .filter_map(|field| Some((field.name?.to_owned(), property(field, prefix))))
        .collect();
    let required: Vec<&str> = fields
        .iter()
        .filter(|field| field.required)
        .filter_map(|field| field.name)
        .collect();
    let mut schema = json!({ "type": "object", "properties": properties });
    if let (Value::Object(members), false) = (&mut schema, required.is_empty()) {
        members.insert("required".to_owned(), json!(required));
    }
    schema
}

fn property(field: &Field, prefix: &str) -> Value {
    let mut schema = shape(&field.shape, prefix);
    let Value::Object(members) = &mut schema else {
        return schema;
    };
    let mut mark = |name: &str, value: Value| members.insert(format!("x-kubernetes-{name}"), value);
    match (field.merge, field.retain_keys) {
        (true, true) => {
            mark("patch-strategy", "merge,retainKeys".into());
        }
        (true, false) => {
            mark("patch-strategy", "merge".into());
        }
        (false, true) => {
            mark("patch-strategy", "retainKeys".into());
        }
        (false, false) => {}
    }
    if let Some(key) = field.merge_key {
        mark("patch-merge-key", key.into());
    }
    match &field.list {
        Some(ListType::Set) => {
            mark("list-type", "set".into());
        }
        Some(ListType::Atomic) => {
            mark("list-type", "atomic".into());
        }
        Some(ListType::Map(keys)) => {
            mark("list-map-keys", json!(keys));
            mark("list-type", "map".into());
        }
        None => {}
    }
    if field.atomic {
        mark("map-type", "atomic".into());
    }
    schema
}

fn shape(shape_of: &Shape, prefix: &str) -> Value {
    match shape_of {
        Shape::Struct(inner) => json!({ "$ref": format!("{prefix}{}", name(inner)) }),
        Shape::List(inner) => json!({ "type": "array", "items": shape(inner, prefix) }),
        Shape::Map(inner) => {
            json!({ "type": "object", "additionalProperties": shape(inner, prefix) })
        }
        Shape::Scalar(scalar) => match scalar {
            Scalar::String => json!({ "type": "string" }),
            Scalar::Bool => json!({ "type": "boolean" }),
            Scalar::Int32 => json!({ "type": "integer", "format": "int32" }),
            Scalar::Int64 => json!({ "type": "integer", "format": "int64" }),
            Scalar::Float64 => json!({ "type": "number", "format": "double" }),
            Scalar::Bytes => json!({ "type": "string", "format": "byte" }),
            Scalar::Time | Scalar::MicroTime => json!({ "type": "string", "format": "date-time" }),
            Scalar::Quantity => json!({ "type": "string" }),
            Scalar::IntOrString => json!({ "type": "string", "format": "int-or-string" }),
            Scalar::Raw => json!({ "type": "object" }),
        },
    }
}
