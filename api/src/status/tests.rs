use serde_json::json;

use super::{FieldError, OBJECT_MODIFIED, Status};
use crate::Revision;
use crate::resource::{DEPLOYMENT, NODE, POD};

fn check(status: Status, code: u16, reason: &str, message: &str) {
    assert_eq!(
        (status.code, status.reason, status.message.as_str()),
        (code, reason, message)
    );
}

#[test]
fn messages_are_those_kubectl_users_know() {
    check(
        Status::not_found(&POD, "x"),
        404,
        "NotFound",
        r#"pods "x" not found"#,
    );
    check(
        Status::not_found(&DEPLOYMENT, "x"),
        404,
        "NotFound",
        r#"deployments.apps "x" not found"#,
    );
    check(
        Status::already_exists(&DEPLOYMENT, "x"),
        409,
        "AlreadyExists",
        r#"deployments.apps "x" already exists"#,
    );
    check(
        Status::conflict(&POD, "x", OBJECT_MODIFIED),
        409,
        "Conflict",
        r#"Operation cannot be fulfilled on pods "x": the object has been modified; please apply your changes to the latest version and try again"#,
    );
    check(
        Status::forbidden("eve", "list", &POD, "default", ""),
        403,
        "Forbidden",
        r#"pods is forbidden: User "eve" cannot list resource "pods" in API group "" in the namespace "default""#,
    );
    check(
        Status::forbidden("eve", "get", &NODE, "", "n1"),
        403,
        "Forbidden",
        r#"nodes "n1" is forbidden: User "eve" cannot get resource "nodes" in API group "" at the cluster scope"#,
    );
    check(
        Status::too_large_resource_version(Revision(9), Revision(3)),
        504,
        "Timeout",
        "Too large resource version: 9, current: 3",
    );
}

#[test]
fn one_field_error_is_told_bare_and_several_in_brackets() {
    let required = FieldError::required("spec.selector", "");
    let range = FieldError::invalid("spec.replicas", -1, "must be greater than or equal to 0");
    check(
        Status::invalid(&DEPLOYMENT, "web", vec![required.clone()]),
        422,
        "Invalid",
        r#"Deployment.apps "web" is invalid: spec.selector: Required value"#,
    );
    check(
        Status::invalid(&DEPLOYMENT, "web", vec![required, range]),
        422,
        "Invalid",
        r#"Deployment.apps "web" is invalid: [spec.selector: Required value, spec.replicas: Invalid value: -1: must be greater than or equal to 0]"#,
    );
}

#[test]
fn the_body_is_a_status_object_with_details() {
    assert_eq!(
        Status::not_found(&DEPLOYMENT, "web").to_json(),
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "deployments.apps \"web\" not found", "reason": "NotFound",
            "details": { "name": "web", "group": "apps", "kind": "deployments" }, "code": 404,
        })
    );
}

#[test]
fn a_terminating_namespace_is_named_among_the_causes() {
    let status = Status::namespace_terminating(&POD, "p", "old");
    assert_eq!(
        status.details.expect("details")["causes"][0]["reason"],
        "NamespaceTerminating"
    );
}
