use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use super::columns::{AGE, NAME, column, first_three, list, text};
use super::defaults::{items, set};
use super::validation::{immutable, label_map, metadata, one_of, port, special_ip};
use super::{PLAIN, through};
use crate::balancing::weights_of_slice;
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

/// Source: `ValidateEndpointSlice` in `k8s.io/kubernetes/pkg/apis/discovery/validation`.
fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(new, old, names::dns_1123_subdomain);
    let kind = text(new, "/addressType");
    if kind.is_empty() {
        errors.push(FieldError::required("addressType", ""));
    }
    errors.extend(one_of(
        new,
        "/addressType",
        "addressType",
        &["FQDN", "IPv4", "IPv6"],
    ));
    for (position, endpoint) in list(new, "/endpoints").iter().enumerate() {
        let at = format!("endpoints[{position}].addresses");
        let addresses = list(endpoint, "/addresses");
        if addresses.is_empty() {
            errors.push(FieldError::required(
                at.as_str(),
                "must contain at least 1 address",
            ));
        }
        for (position, given) in addresses.iter().enumerate() {
            let given = given.as_str().unwrap_or_default();
            errors.extend(address(given, kind, &format!("{at}[{position}]")));
        }
    }
    let mut names_seen = BTreeSet::new();
    for (position, declared) in list(new, "/ports").iter().enumerate() {
        let (at, name) = (format!("ports[{position}]"), text(declared, "/name"));
        if !names_seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), name));
        } else if !name.is_empty()
            && let Some(rule) = names::dns_1123_label(name)
        {
            errors.push(FieldError::invalid(format!("{at}.name"), name, &rule));
        }
        errors.extend(one_of(
            declared,
            "/protocol",
            &format!("{at}.protocol"),
            &["SCTP", "TCP", "UDP"],
        ));
        if let Some(number) = declared["port"].as_i64() {
            errors.extend(port(number, &format!("{at}.port")));
        }
    }
    let annotations = label_map(new, "/metadata/annotations");
    errors.extend(weights_of_slice(Some(&annotations)).1);
    if let Some(old) = old {
        errors.extend(immutable(new, old, "/addressType", "addressType"));
    }
    errors
}

fn address(given: &str, kind: &str, field: &str) -> Option<FieldError> {
    let rule = match (kind, given.parse::<IpAddr>()) {
        ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => {
            return special_ip(given, field);
        }
        ("IPv4", _) => "must be a valid IPv4 address".to_owned(),
        ("IPv6", _) => "must be a valid IPv6 address".to_owned(),
        _ => names::dns_1123_subdomain(given)?,
    };
    Some(FieldError::invalid(field, given, &rule))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_of_the_slices_family_and_name_one_machine() {
        let told = |kind: &str, address: &str| {
            let slice = json!({
                "metadata": { "name": "web-1" },
                "addressType": kind, "endpoints": [{ "addresses": [address] }],
            });
            let errors = validate(&slice, None);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let at = "endpoints[0].addresses[0]: Invalid value:";
        for (kind, address, expect) in [
            ("IPv4", "192.0.2.1", None),
            ("IPv6", "2001:db8::1", None),
            ("FQDN", "db.example.com", None),
            (
                "IPv4",
                "2001:db8::1",
                Some(r#""2001:db8::1": must be a valid IPv4 address"#),
            ),
            (
                "IPv6",
                "192.0.2.1",
                Some(r#""192.0.2.1": must be a valid IPv6 address"#),
            ),
            (
                "IPv4",
                "127.0.0.1",
                Some(r#""127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)"#),
            ),
        ] {
            let expect: Vec<String> = expect.iter().map(|rule| format!("{at} {rule}")).collect();
            assert_eq!(told(kind, address), expect, "{kind} {address}");
        }
    }

    #[test]
    fn weights_are_checked_by_their_annotation() {
        let slice = json!({
            "metadata": { "name": "web-1", "annotations": { "net.fairlead.io/weights": "a=1" } },
            "addressType": "IPv4", "ports": [{ "name": "http", "port": 80 }, { "name": "http", "port": 0 }],
        });
        let errors = validate(&slice, None);
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "ports[1].name",
                "ports[1].port",
                "metadata.annotations[net.fairlead.io/weights]",
            ]
        );
    }
}
