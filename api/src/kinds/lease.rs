use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use super::columns::{AGE, NAME, column, text};
use super::validation::{metadata, not_negative};
use super::{PLAIN, through};
use crate::names;
use crate::resource::{Column, Resource};
use crate::status::FieldError;

/// A claim that its holder renews: the heartbeat of nodes.
pub static LEASE: Resource = Resource {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    columns: COLUMNS,
    type_name: "coordination.v1.Lease",
    normalize: through::<Lease>,
    validate,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Holder", |lease, _| {
        text(lease, "/spec/holderIdentity").into()
    }),
    AGE,
];

fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(new, old, names::dns_1123_subdomain);
    let duration = new.pointer("/spec/leaseDurationSeconds");
    if let Some(seconds) = duration.and_then(Value::as_i64).filter(|s| *s <= 0) {
        errors.push(FieldError::invalid(
            "spec.leaseDurationSeconds",
            seconds,
            "must be greater than 0",
        ));
    }
    errors.extend(not_negative(
        new,
        "/spec/leaseTransitions",
        "spec.leaseTransitions",
    ));
    errors
}
