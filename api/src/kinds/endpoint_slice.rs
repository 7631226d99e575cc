use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use super::defaults::{items, set};
use super::{PLAIN, through};
use crate::resource::Resource;

/// A part of the backends of a Service.
pub static ENDPOINT_SLICE: Resource = Resource {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    type_name: "discovery.v1.EndpointSlice",
    normalize: through::<EndpointSlice>,
    default,
    ..PLAIN
};

fn default(slice: &mut Value) {
    for port in items(slice, "ports") {
        set(port, "name", "");
        set(port, "protocol", "TCP");
    }
}
