use k8s_openapi::api::coordination::v1::Lease;

use super::{PLAIN, through};
use crate::resource::Resource;

/// A claim that its holder renews: the heartbeat of nodes.
pub static LEASE: Resource = Resource {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    type_name: "coordination.v1.Lease",
    normalize: through::<Lease>,
    ..PLAIN
};
