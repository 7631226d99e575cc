use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use super::columns::{AGE, NAME, column, first_three, list, text};
use super::defaults::{items, set};
use super::{PLAIN, through};
use crate::resource::{Column, Resource};

/// A part of the backends of a Service.
pub static ENDPOINT_SLICE: Resource = Resource {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    columns: COLUMNS,
    type_name: "discovery.v1.EndpointSlice",
    normalize: through::<EndpointSlice>,
    default,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("AddressType", |slice, _| text(slice, "/addressType").into()),
    column("Ports", |slice, _| {
        let ports = list(slice, "/ports").iter();
        let numbers = ports.map(|port| match &port["port"] {
            Value::Null => "*".to_owned(),
            number => number.to_string(),
        });
        or_unset(&numbers.collect::<Vec<_>>())
    }),
    column("Endpoints", |slice, _| {
        let endpoints = list(slice, "/endpoints").iter();
        let addresses = endpoints.flat_map(|endpoint| list(endpoint, "/addresses"));
        let texts = addresses.filter_map(Value::as_str).map(str::to_owned);
        or_unset(&texts.collect::<Vec<_>>())
    }),
    AGE,
];

fn or_unset(items: &[String]) -> Value {
    if items.is_empty() {
        "<unset>".into()
    } else {
        first_three(items).into()
    }
}

fn default(slice: &mut Value) {
    for port in items(slice, "ports") {
        set(port, "name", "");
        set(port, "protocol", "TCP");
    }
}
