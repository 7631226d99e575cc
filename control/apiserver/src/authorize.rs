use fairlead_api::status::Status;
use fairlead_pki::Identity;
use http::Method;

use crate::request::{ObjectPath, Target};

/// The group whose members may do everything.
const MASTERS: &str = "system:masters";

/// Paths that answer without credentials: what a load balancer's or supervisor's probe asks.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

/// Paths (and what lies below) that any authenticated user may read.
const DISCOVERY: &[&str] = &[
    "/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz",
];

/// Whether anybody may ask this.
pub(crate) fn is_public(method: &Method, path: &str) -> bool {
    method == Method::GET && PUBLIC.contains(&path.trim_end_matches('/'))
}

/// Whether a user may do everything.
pub(crate) fn is_master(user: &Identity) -> bool {
    user.groups.iter().any(|group| group == MASTERS)
}

/// Whether a user may do this; 403 in Kubernetes' words when not.
pub(crate) fn authorize(
    user: &Identity,
    method: &Method,
    target: Target<'_>,
    watch: bool,
) -> Result<(), Status> {
    if is_master(user) {
        return Ok(());
    }
    match target {
        Target::Path(path) if method == Method::GET && is_discovery(path) => Ok(()),
        Target::Path(path) => {
            let verb = method.as_str().to_ascii_lowercase();
            Err(Status::forbidden_path(&user.user, &verb, path))
        }
        Target::Object(object) if is_self_review(&object) => Ok(()),
        Target::Object(object) => Err(forbidden(user, object.verb(method, watch), &object)),
    }
}

fn is_discovery(path: &str) -> bool {
    DISCOVERY.iter().any(|prefix| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Everybody may ask who they are and what they may do.
fn is_self_review(object: &ObjectPath<'_>) -> bool {
    matches!(
        (object.group, object.plural),
        ("authentication.k8s.io", "selfsubjectreviews")
            | (
                "authorization.k8s.io",
                "selfsubjectaccessreviews" | "selfsubjectrulesreviews"
            )
    )
}

fn forbidden(user: &Identity, verb: &str, object: &ObjectPath<'_>) -> Status {
    let resource = match object.subresource {
        Some(subresource) => format!("{}/{subresource}", object.plural),
        None => object.plural.to_owned(),
    };
    let qualified = if object.group.is_empty() {
        object.plural.to_owned()
    } else {
        format!("{}.{}", object.plural, object.group)
    };
    let named = object
        .name
        .map(|name| format!(" {name:?}"))
        .unwrap_or_default();
    let place = match object.namespace {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    let mut details = serde_json::json!({ "kind": object.plural });
    if let Some(name) = object.name {
        details["name"] = name.into();
    }
    if !object.group.is_empty() {
        details["group"] = object.group.into();
    }
    Status {
        code: 403,
        reason: "Forbidden",
        message: format!(
            "{qualified}{named} is forbidden: User {:?} cannot {verb} resource {resource:?} in API group {:?} {place}",
            user.user, object.group
        ),
        details: Some(details),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(groups: &[&str]) -> Identity {
        Identity {
            user: "jane".to_owned(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
        }
    }

    #[test]
    fn stranger_is_refused_in_the_words_of_kubernetes() {
        let target = Target::parse("/apis/apps/v1/namespaces/a/deployments/web");
        let status = authorize(&user(&[]), &Method::GET, target, false).unwrap_err();
        assert_eq!(
            status.message,
            "deployments.apps \"web\" is forbidden: User \"jane\" cannot get resource \"deployments\" \
             in API group \"apps\" in the namespace \"a\""
        );
        let target = Target::parse("/api/v1/nodes");
        let status = authorize(&user(&[]), &Method::GET, target, false).unwrap_err();
        assert_eq!(
            status.message,
            "nodes is forbidden: User \"jane\" cannot list resource \"nodes\" in API group \"\" \
             at the cluster scope"
        );
    }

    #[test]
    fn stranger_may_discover_and_ask_about_itself() {
        for path in ["/api", "/apis/apps/v1", "/openapi/v3", "/version"] {
            authorize(&user(&[]), &Method::GET, Target::parse(path), false).unwrap();
        }
        let target = Target::parse("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
        authorize(&user(&[]), &Method::POST, target, false).unwrap();
        assert!(authorize(&user(&[]), &Method::GET, Target::parse("/apiserver"), false).is_err());
    }

    #[test]
    fn masters_may_do_everything() {
        let target = Target::parse("/api/v1/nodes/n");
        authorize(&user(&["system:masters"]), &Method::DELETE, target, false).unwrap();
    }
}
