use k8s_openapi::api::core::v1::Secret;

use super::{PLAIN, field, through};
use crate::resource::Resource;

/// Configuration data that is not for everyone's eyes.
pub static SECRET: Resource = Resource {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    selectable_fields: &[field("type", "/type")],
    type_name: "core.v1.Secret",
    normalize: through::<Secret>,
    ..PLAIN
};
