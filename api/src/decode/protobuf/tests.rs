use serde_json::json;

use super::*;
use crate::decode::{self, FieldValidation};
use crate::resource::{
    CONFIG_MAP, DEPLOYMENT, NAMESPACE, Resource, SECRET, SERVICE, SERVICE_ACCOUNT,
};

macro_rules! fixture {
    ($name:literal) => {
        (
            &include_bytes!(concat!("../../../testdata/protobuf/", $name, ".bin"))[..],
            &include_bytes!(concat!("../../../testdata/protobuf/", $name, ".json"))[..],
        )
    };
}

#[test]
fn what_is_no_envelope_is_refused() {
    assert_eq!(protobuf(b"{}").expect_err("no magic").code, 400);
    assert_eq!(protobuf(b"k8s\0\xff\xff").expect_err("cut short").code, 400);
}

#[test]
fn an_unknown_kind_is_refused_by_name() {
    let body = b"k8s\0\x0a\x0a\x0a\x02v1\x12\x04Nope";
    let refused = protobuf(body).expect_err("no such kind");
    assert_eq!(
        refused.message,
        r#"object of kind "Nope" in "v1" is not known here"#
    );
}

#[test]
fn options_are_found_in_the_group_they_come_in() {
    // typeMeta { apiVersion: "apps/v1", kind: "DeleteOptions" }, raw { gracePeriodSeconds: 0 }
    let body = b"k8s\0\x0a\x18\x0a\x07apps/v1\x12\x0dDeleteOptions\x12\x02\x08\x00";
    assert_eq!(
        protobuf(body),
        Ok(json!({ "apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0 }))
    );
}

/// What `kubectl create` 1.37 sends is what it prints with `--dry-run=client -o json`.
#[test]
fn what_kubectl_sends_is_what_it_prints() {
    check(&DEPLOYMENT, fixture!("deployment"));
    check(&CONFIG_MAP, fixture!("config_map"));
    check(&SECRET, fixture!("secret"));
    check(&NAMESPACE, fixture!("namespace"));
    check(&SERVICE_ACCOUNT, fixture!("service_account"));
    check(&SERVICE, fixture!("service_load_balancer"));
    check(&SERVICE, fixture!("service_headless"));
}

fn check(resource: &Resource, (sent, printed): (&[u8], &[u8])) {
    let normal = |object: Value| {
        let decoded = decode::value(resource, object, FieldValidation::Strict);
        without_empty(decoded.expect("sound").value)
    };
    let sent = normal(protobuf(sent).expect("decodes"));
    let printed = normal(serde_json::from_slice(printed).expect("JSON"));
    assert_eq!(sent, printed);
}

/// Go prints structs of zeros as `{}`, protobuf leaves them out.
fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .map(|(key, member)| (key, without_empty(member)))
            .filter(|(_, member)| !member.as_object().is_some_and(Map::is_empty))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items
            .into_iter()
            .map(without_empty)
            .collect::<Vec<_>>()
            .into(),
        scalar => scalar,
    }
}
