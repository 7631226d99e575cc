use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::Value;

use super::columns::{AGE, NAME, column, list};
use super::validation::metadata;
use super::{PLAIN, through};
use crate::names;
use crate::resource::{Column, Resource};
use crate::status::FieldError;

/// An identity for the processes of pods.
pub static SERVICE_ACCOUNT: Resource = Resource {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    columns: COLUMNS,
    type_name: "core.v1.ServiceAccount",
    normalize: through::<ServiceAccount>,
    validate,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Secrets", |account, _| {
        list(account, "/secrets").len().into()
    }),
    AGE,
];

fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    metadata(new, old, names::dns_1123_subdomain)
}
