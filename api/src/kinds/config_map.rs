use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use super::columns::{AGE, NAME, column};
use super::data;
use super::validation::metadata;
use super::{PLAIN, through};
use crate::names;
use crate::resource::{Column, Resource};
use crate::status::FieldError;

/// Configuration data for pods.
pub static CONFIG_MAP: Resource = Resource {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    columns: COLUMNS,
    type_name: "core.v1.ConfigMap",
    normalize: through::<ConfigMap>,
    validate,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Data", |map, _| {
        let members = |key: &str| map[key].as_object().map_or(0, serde_json::Map::len);
        (members("data") + members("binaryData")).into()
    }),
    AGE,
];

fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(new, old, names::dns_1123_subdomain);
    errors.extend(data::validate(new, old, &["data", "binaryData"]));
    errors
}
