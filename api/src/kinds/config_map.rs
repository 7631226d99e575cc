use k8s_openapi::api::core::v1::ConfigMap;

use super::{PLAIN, through};
use crate::resource::Resource;

/// Configuration data for pods.
pub static CONFIG_MAP: Resource = Resource {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    type_name: "core.v1.ConfigMap",
    normalize: through::<ConfigMap>,
    ..PLAIN
};
