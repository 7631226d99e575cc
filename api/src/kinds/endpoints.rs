use k8s_openapi::api::core::v1::Endpoints;
use serde_json::Value;

use super::defaults::{items, set};
use super::{PLAIN, through};
use crate::resource::Resource;

/// The backends of a Service in one object, as clients before EndpointSlice read them.
pub static ENDPOINTS: Resource = Resource {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    type_name: "core.v1.Endpoints",
    normalize: through::<Endpoints>,
    default,
    ..PLAIN
};

fn default(endpoints: &mut Value) {
    for subset in items(endpoints, "subsets") {
        for port in items(subset, "ports") {
            set(port, "protocol", "TCP");
        }
    }
}
