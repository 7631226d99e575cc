//! The version 2 document, in the protobuf form that clients before 1.27 insist on
//! (`application/com.github.proto-openapi.spec.v2@v1.0+protobuf`). They read it before they apply
//! or create, to validate on their own and to learn how lists merge.
//!
//! Source of the tags: `github.com/google/gnostic-models/openapiv2/OpenAPIv2.proto`.

use prost::encoding::{bytes, string};
use serde_json::{Value, json};

use super::schemas;
use crate::resource::{RESOURCES, Resource};

const GROUP_VERSION_KIND: &str = "x-kubernetes-group-version-kind";

/// `openapi.v2.Document`: the definitions of all that is served, and of each resource the one path
/// that tells a client that a dry run is possible.
pub fn document_v2_protobuf() -> Vec<u8> {
    let served: Vec<&Resource> = RESOURCES.to_vec();
    let mut definitions = Vec::new();
    for (name, schema) in schemas::of(&served, "#/definitions/") {
        put(1, &named(&name, &encode_schema(&schema)), &mut definitions);
    }
    let mut info = Vec::new();
    text(1, "Kubernetes", &mut info);
    text(2, "v1.37.0", &mut info);

    let mut document = Vec::new();
    text(1, "2.0", &mut document);
    put(2, &info, &mut document);
    let paths: Vec<u8> = served
        .iter()
        .flat_map(|resource| encode_path(resource))
        .collect();
    put(8, &paths, &mut document);
    put(9, &definitions, &mut document);
    document
}

/// An entry of `openapi.v2.Paths`: that the resource's `patch` takes `dryRun` and on which kind it
/// works. Nothing else is read from paths.
fn encode_path(resource: &Resource) -> Vec<u8> {
    let kind = json!({
        "group": resource.group,
        "version": resource.version,
        "kind": resource.kind,
    });
    let kind = named(GROUP_VERSION_KIND, &field(2, kind.to_string().as_bytes()));
    // ParametersItem, Parameter, NonBodyParameter, QueryParameterSubSchema, its name.
    let dry_run = field(1, &field(2, &field(3, &field(4, b"dryRun"))));
    let mut operation = field(8, &dry_run);
    put(13, &kind, &mut operation);
    let namespace = if resource.is_namespaced() {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let place = super::place(resource.group, resource.version);
    let path = format!("/{place}{namespace}/{}/{{name}}", resource.plural);
    field(2, &named(&path, &field(8, &operation)))
}

/// `openapi.v2.Schema`, of a schema as version 3 writes it; the two agree in what is used here.
fn encode_schema(schema: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in schema.as_object().into_iter().flatten() {
        match (key.as_str(), value) {
            ("$ref", Value::String(reference)) => text(1, reference, &mut out),
            ("format", Value::String(format)) => text(2, format, &mut out),
            ("required", Value::Array(names)) => {
                for name in names.iter().filter_map(Value::as_str) {
                    text(19, name, &mut out);
                }
            }
            ("additionalProperties", inner) => put(21, &field(1, &encode_schema(inner)), &mut out),
            ("type", Value::String(kind)) => put(22, &field(1, kind.as_bytes()), &mut out),
            ("items", inner) => put(23, &field(1, &encode_schema(inner)), &mut out),
            ("properties", Value::Object(members)) => {
                let mut properties = Vec::new();
                for (name, member) in members {
                    put(1, &named(name, &encode_schema(member)), &mut properties);
                }
                put(25, &properties, &mut out);
            }
            (extension, value) => {
                // Extensions are YAML, which JSON is.
                let yaml = field(2, value.to_string().as_bytes());
                put(31, &named(extension, &yaml), &mut out);
            }
        }
    }
    out
}

/// `NamedSchema`, `NamedAny`: a name and a message.
fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = field(1, name.as_bytes());
    put(2, value, &mut out);
    out
}

fn field(tag: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(tag, value, &mut out);
    out
}

fn put(tag: u32, value: &[u8], out: &mut Vec<u8>) {
    bytes::encode(tag, &value.to_vec(), out);
}

fn text(tag: u32, value: &str, out: &mut Vec<u8>) {
    string::encode(tag, &value.to_owned(), out);
}
