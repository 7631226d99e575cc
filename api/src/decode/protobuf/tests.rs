use serde_json::json;

use super::*;

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
