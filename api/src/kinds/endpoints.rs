use k8s_openapi::api::core::v1::Endpoints;
use serde_json::Value;

use super::columns::{AGE, NAME, column, first_three, list, number, or_none, text};
use super::defaults::{items, set};
use super::validation::{ip, metadata, port, special_ip};
use super::{PLAIN, through};
use crate::names;
use crate::resource::{Column, Resource};
use crate::status::FieldError;

/// The backends of a Service in one object, as clients before EndpointSlice read them.
pub static ENDPOINTS: Resource = Resource {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    columns: COLUMNS,
    type_name: "core.v1.Endpoints",
    normalize: through::<Endpoints>,
    default,
    validate,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Endpoints", |endpoints, _| {
        or_none(first_three(&pairs(endpoints)))
    }),
    AGE,
];

/// `address:port` of all that is ready.
fn pairs(endpoints: &Value) -> Vec<String> {
    let mut pairs = Vec::new();
    for subset in list(endpoints, "/subsets") {
        let addresses = list(subset, "/addresses");
        let ports = list(subset, "/ports");
        if ports.is_empty() {
            pairs.extend(addresses.iter().map(|a| text(a, "/ip").to_owned()));
        }
        for port in ports {
            let number_of = number(port, "/port");
            let addressed = addresses.iter().map(|a| match text(a, "/ip") {
                v6 if v6.contains(':') => format!("[{v6}]:{number_of}"),
                v4 => format!("{v4}:{number_of}"),
            });
            pairs.extend(addressed);
        }
    }
    pairs
}

fn default(endpoints: &mut Value) {
    for subset in items(endpoints, "subsets") {
        for port in items(subset, "ports") {
            set(port, "protocol", "TCP");
        }
    }
}

fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(new, old, names::dns_1123_subdomain);
    for (position, subset) in list(new, "/subsets").iter().enumerate() {
        let at = format!("subsets[{position}]");
        for key in ["addresses", "notReadyAddresses"] {
            for (position, address) in list(subset, &format!("/{key}")).iter().enumerate() {
                let field = format!("{at}.{key}[{position}].ip");
                let given = text(address, "/ip");
                let error = ip(given, &field).or_else(|| special_ip(given, &field));
                errors.extend(error);
            }
        }
        let ports = list(subset, "/ports");
        for (position, declared) in ports.iter().enumerate() {
            if ports.len() > 1 && text(declared, "/name").is_empty() {
                let field = format!("{at}.ports[{position}].name");
                errors.push(FieldError::required(field, ""));
            }
            let field = format!("{at}.ports[{position}].port");
            errors.extend(port(number(declared, "/port"), &field));
        }
    }
    errors
}
