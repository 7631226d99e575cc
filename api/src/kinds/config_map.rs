use k8s_openapi::api::core::v1::ConfigMap;

use super::columns::{AGE, NAME, column};
use super::{PLAIN, through};
use crate::resource::{Column, Resource};

/// Configuration data for pods.
pub static CONFIG_MAP: Resource = Resource {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    columns: COLUMNS,
    type_name: "core.v1.ConfigMap",
    normalize: through::<ConfigMap>,
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
