use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use super::columns::{AGE, NAME, column, first_three, list, text};
use super::defaults::{items, set};
use super::validation::{immutable, metadata, one_of};
use super::{PLAIN, through};
use crate::names;
use crate::resource::{Column, Resource};
use crate::status::FieldError;

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
    validate,
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

fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(new, old, names::dns_1123_subdomain);
    if text(new, "/addressType").is_empty() {
        errors.push(FieldError::required("addressType", ""));
    }
    errors.extend(one_of(
        new,
        "/addressType",
        "addressType",
        &["FQDN", "IPv4", "IPv6"],
    ));
    for (position, endpoint) in list(new, "/endpoints").iter().enumerate() {
        if list(endpoint, "/addresses").is_empty() {
            errors.push(FieldError::required(
                format!("endpoints[{position}].addresses"),
                "must contain at least 1 address",
            ));
        }
    }
    if let Some(old) = old {
        errors.extend(immutable(new, old, "/addressType", "addressType"));
    }
    errors
}
