use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::columns::{AGE, NAME, column, text};
use super::data;
use super::defaults::{object, set};
use super::validation::{immutable, metadata};
use super::{PLAIN, field, through};
use crate::names;
use crate::resource::{Column, Resource};
use crate::status::FieldError;

/// Configuration data that is not for everyone's eyes.
pub static SECRET: Resource = Resource {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    selectable_fields: &[field("type", "/type")],
    columns: COLUMNS,
    type_name: "core.v1.Secret",
    normalize: through::<Secret>,
    default,
    validate,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Type", |secret, _| text(secret, "/type").into()),
    column("Data", |secret, _| {
        secret["data"]
            .as_object()
            .map_or(0, serde_json::Map::len)
            .into()
    }),
    AGE,
];

/// The type, and `stringData`, which is only ever written, moved into `data`.
fn default(secret: &mut Value) {
    set(secret, "type", "Opaque");
    let given = secret.as_object_mut().and_then(|s| s.remove("stringData"));
    let Some(Value::Object(plain)) = given else {
        return;
    };
    let Some(data) = object(secret, "data") else {
        return;
    };
    for (key, value) in plain {
        data[key] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
    }
}

fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(new, old, names::dns_1123_subdomain);
    errors.extend(data::validate(new, old, &["data"]));
    errors.extend(data::required_keys(new));
    if let Some(old) = old {
        errors.extend(immutable(new, old, "/type", "type"));
    }
    errors
}
