use k8s_openapi::api::core::v1::ServiceAccount;

use super::columns::{AGE, NAME, column, list};
use super::{PLAIN, through};
use crate::resource::{Column, Resource};

/// An identity for the processes of pods.
pub static SERVICE_ACCOUNT: Resource = Resource {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    columns: COLUMNS,
    type_name: "core.v1.ServiceAccount",
    normalize: through::<ServiceAccount>,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Secrets", |account, _| {
        list(account, "/secrets").len().into()
    }),
    AGE,
];
