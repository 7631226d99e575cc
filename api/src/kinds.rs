//! One module a kind: its entry in the table of resources, its defaults, its validation, its
//! columns.

pub(crate) mod columns;
mod config_map;
mod data;
mod defaults;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod lease;
mod namespace;
mod node;
mod pod;
mod replica_set;
mod secret;
mod service;
mod service_account;
mod validation;
mod workload;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use config_map::CONFIG_MAP;
pub use deployment::DEPLOYMENT;
pub use endpoint_slice::ENDPOINT_SLICE;
pub use endpoints::ENDPOINTS;
pub use event::EVENT;
pub use lease::LEASE;
pub use namespace::NAMESPACE;
pub use node::NODE;
pub use pod::POD;
pub use replica_set::REPLICA_SET;
pub use secret::SECRET;
pub use service::SERVICE;
pub use service_account::SERVICE_ACCOUNT;

use crate::resource::{Resource, ScalePaths, Scope, SelectableField};
use crate::status::FieldError;

/// What most resources are: namespaced, in the core group, with nothing beyond an object. An entry
/// names what differs: `Resource { kind: …, ..PLAIN }`.
const PLAIN: Resource = Resource {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    status: false,
    scale: None,
    subresources: &[],
    columns: &[],
    selectable_fields: &[],
    type_name: "",
    normalize: |value| Ok(value.clone()),
    default: |_| (),
    validate: |_, _| Vec::new(),
    warnings: |_| Vec::new(),
};

/// `/scale` of everything that keeps replicas of a pod template.
const REPLICAS: ScalePaths = ScalePaths {
    spec_replicas: "/spec/replicas",
    status_replicas: "/status/replicas",
    selector: "/spec/selector",
};

const fn field(name: &'static str, pointer: &'static str) -> SelectableField {
    SelectableField {
        name,
        pointer,
        absent: "",
    }
}

const fn flag(name: &'static str, pointer: &'static str) -> SelectableField {
    SelectableField {
        name,
        pointer,
        absent: "false",
    }
}

/// [`Resource::normalize`] through the typed form `K`.
fn through<K: DeserializeOwned + Serialize>(value: &Value) -> Result<Value, FieldError> {
    let typed: K = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        FieldError::invalid(path, Value::Null, &error.into_inner().to_string())
    })?;
    Ok(serde_json::to_value(typed).expect("API types serialise to JSON"))
}
