use k8s_openapi::api::coordination::v1::Lease;

use super::columns::{AGE, NAME, column, text};
use super::{PLAIN, through};
use crate::resource::{Column, Resource};

/// A claim that its holder renews: the heartbeat of nodes.
pub static LEASE: Resource = Resource {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    columns: COLUMNS,
    type_name: "coordination.v1.Lease",
    normalize: through::<Lease>,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Holder", |lease, _| {
        text(lease, "/spec/holderIdentity").into()
    }),
    AGE,
];
