use k8s_openapi::api::core::v1::ServiceAccount;

use super::{PLAIN, through};
use crate::resource::Resource;

/// An identity for the processes of pods.
pub static SERVICE_ACCOUNT: Resource = Resource {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    type_name: "core.v1.ServiceAccount",
    normalize: through::<ServiceAccount>,
    ..PLAIN
};
