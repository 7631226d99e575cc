use fairlead_api::status::Status;
use fairlead_pki::Identity;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    authorize::{authorize, is_master},
    body,
    request::{ObjectPath, Request, Target},
    response::{self, Response},
};

/// Whether a path is about a review: a question that is answered and not stored.
pub(crate) fn is_review(path: &ObjectPath<'_>) -> bool {
    path.version == "v1"
        && path.name.is_none()
        && matches!(
            (path.group, path.plural),
            ("authentication.k8s.io", "selfsubjectreviews")
                | (
                    "authorization.k8s.io",
                    "selfsubjectaccessreviews"
                        | "selfsubjectrulesreviews"
                        | "subjectaccessreviews"
                        | "localsubjectaccessreviews"
                )
        )
}

/// Answers who somebody is, or what somebody may do.
pub(crate) fn review(request: &Request, path: &ObjectPath<'_>) -> Result<Response, Status> {
    if request.method != Method::POST {
        return Err(Status::method_not_allowed());
    }
    let (kind, answer): (&str, fn(&Identity, &Value) -> Value) = match path.plural {
        "selfsubjectreviews" => ("SelfSubjectReview", who),
        "selfsubjectaccessreviews" => ("SelfSubjectAccessReview", may),
        "selfsubjectrulesreviews" => ("SelfSubjectRulesReview", rules),
        "localsubjectaccessreviews" => ("LocalSubjectAccessReview", may_another),
        _ => ("SubjectAccessReview", may_another),
    };
    let body = body::required(request, kind)?;
    let spec = body.get("spec").cloned().unwrap_or_else(|| json!({}));
    let status = answer(&request.user, &spec);
    let review = json!({
        "kind": kind,
        "apiVersion": format!("{}/{}", path.group, path.version),
        "metadata": {},
        "spec": spec,
        "status": status,
    });
    Ok(response::json_value(StatusCode::CREATED, &review))
}

fn who(user: &Identity, _spec: &Value) -> Value {
    json!({ "userInfo": { "username": user.user, "groups": user.groups } })
}

fn may(user: &Identity, spec: &Value) -> Value {
    json!({ "allowed": allowed(user, spec) })
}

fn may_another(_user: &Identity, spec: &Value) -> Value {
    let groups = spec.get("groups").and_then(Value::as_array);
    let another = Identity {
        user: spec["user"].as_str().unwrap_or_default().to_owned(),
        groups: groups
            .into_iter()
            .flatten()
            .filter_map(|group| group.as_str().map(str::to_owned))
            .collect(),
    };
    may(&another, spec)
}

fn allowed(user: &Identity, spec: &Value) -> bool {
    if let Some(attributes) = spec.get("nonResourceAttributes") {
        let path = attributes["path"].as_str().unwrap_or_default();
        let verb = attributes["verb"].as_str().unwrap_or_default();
        let method = if verb == "get" {
            Method::GET
        } else {
            Method::POST
        };
        return authorize(user, &method, Target::Path(path), false).is_ok();
    }
    is_master(user)
}

fn rules(user: &Identity, _spec: &Value) -> Value {
    let (resources, paths) = if is_master(user) {
        let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        let everywhere = json!({"verbs": ["*"], "nonResourceURLs": ["*"]});
        (vec![all], vec![everywhere])
    } else {
        let read = json!({
            "verbs": ["get"],
            "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*",
                "/version", "/healthz", "/livez", "/readyz"],
        });
        (Vec::new(), vec![read])
    };
    json!({ "resourceRules": resources, "nonResourceRules": paths, "incomplete": false })
}
