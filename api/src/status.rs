//! The `Status` object every failed request answers with.
//!
//! Source: `k8s.io/apimachinery/pkg/api/errors` and `pkg/util/validation/field`, messages as
//! kubectl users know them.

mod field_error;

use serde_json::{Map, Value, json};

pub use field_error::FieldError;

use crate::Revision;
use crate::resource::Resource;

/// What a writer with a stale `resourceVersion` is told.
pub const OBJECT_MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// A failed request: an HTTP code and the `Status` body that explains it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason: `NotFound`, `AlreadyExists`, `Conflict`, `Invalid`, …
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
    /// `details`: name, group, kind, causes, retryAfterSeconds.
    pub details: Option<Value>,
}

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// 404: no such object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified_plural());
        Self::new(404, "NotFound", message).with_details(details(resource, name))
    }

    /// 404: no such path, as a client that asks for an unserved resource sees it.
    pub fn unknown_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
        .with_details(json!({}))
    }

    /// 409: a create of what exists.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified_plural());
        Self::new(409, "AlreadyExists", message).with_details(details(resource, name))
    }

    /// 409: a precondition failed; `message` says which ([`OBJECT_MODIFIED`] for a stale write).
    pub fn conflict(resource: &Resource, name: &str, message: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {message}",
            resource.qualified_plural()
        );
        Self::new(409, "Conflict", message).with_details(details(resource, name))
    }

    /// 422: the object breaks these rules. One error is told bare, several in brackets.
    pub fn invalid(resource: &Resource, name: &str, errors: Vec<FieldError>) -> Self {
        Self::invalid_kind(resource.group, resource.kind, name, errors)
    }

    /// 422 for a kind that is not in the table (`DeleteOptions`, `ListOptions`).
    pub fn invalid_kind(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let told: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        let told = match told.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let qualified = qualify(kind, group);
        let message = format!("{qualified} \"{name}\" is invalid: {told}");
        let causes: Vec<Value> = errors.iter().map(FieldError::to_cause).collect();
        let mut details = Map::new();
        insert_unless_empty(&mut details, "name", name);
        insert_unless_empty(&mut details, "group", group);
        insert_unless_empty(&mut details, "kind", kind);
        details.insert("causes".to_owned(), Value::Array(causes));
        Self::new(422, "Invalid", message).with_details(Value::Object(details))
    }

    /// 400: the request itself makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: no credential, or one that nobody here vouches for.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 by authorization: `user` may not `verb` this. An empty `namespace` is the cluster
    /// scope, an empty `name` the collection.
    pub fn forbidden(
        user: &str,
        verb: &str,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Self {
        let place = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{namespace}\"")
        };
        let why = format!(
            "User \"{user}\" cannot {verb} resource \"{}\" in API group \"{}\" {place}",
            resource.plural, resource.group
        );
        Self::forbidden_because(resource, name, &why)
    }

    /// 403 for another reason than authorization, which `why` tells.
    pub fn forbidden_because(resource: &Resource, name: &str, why: &str) -> Self {
        let subject = if name.is_empty() {
            resource.qualified_plural()
        } else {
            format!("{} \"{name}\"", resource.qualified_plural())
        };
        Self::new(403, "Forbidden", format!("{subject} is forbidden: {why}"))
            .with_details(details(resource, name))
    }

    /// 403 on a path that belongs to no resource.
    pub fn forbidden_path(user: &str, verb: &str, path: &str) -> Self {
        let message = format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\"");
        Self::new(403, "Forbidden", message).with_details(json!({}))
    }

    /// 403: a create in a namespace that is being emptied.
    pub fn namespace_terminating(resource: &Resource, name: &str, namespace: &str) -> Self {
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let mut status = Self::forbidden_because(resource, name, &why);
        if let Some(Value::Object(details)) = &mut status.details {
            details.insert(
                "causes".to_owned(),
                json!([{
                    "reason": "NamespaceTerminating",
                    "message": format!("namespace {namespace} is being terminated"),
                    "field": "metadata.namespace",
                }]),
            );
        }
        status
    }

    /// 405: the path exists, this method on it does not.
    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with_details(json!({}))
    }

    /// 406: none of the media types the client accepts is spoken here.
    pub fn not_acceptable(spoken: &[&str]) -> Self {
        let message = format!(
            "only the following media types are accepted: {}",
            spoken.join(", ")
        );
        Self::new(406, "NotAcceptable", message)
    }

    /// 410: the requested revision, or the continue token's, is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: a body over the limit.
    pub fn too_large(limit_bytes: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit_bytes}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415: a body in a format that is not understood.
    pub fn unsupported_media_type(understood: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            understood.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 429: try again later; for an eviction that a budget forbids, or an overloaded server.
    pub fn too_many_requests(message: impl Into<String>, retry_after_s: u32) -> Self {
        Self::new(429, "TooManyRequests", message)
            .with_details(json!({ "retryAfterSeconds": retry_after_s }))
    }

    /// 500: our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        let details = json!({ "causes": [{ "message": message }] });
        Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
        .with_details(details)
    }

    /// 503: this server cannot answer now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504: not done in time; it may or may not have happened.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {}", message.into()))
            .with_details(json!({ "retryAfterSeconds": 1 }))
    }

    /// 504: a revision from the future was asked for.
    pub fn too_large_resource_version(requested: Revision, current: Revision) -> Self {
        Self::new(
            504,
            "Timeout",
            format!("Too large resource version: {requested}, current: {current}"),
        )
        .with_details(json!({
            "causes": [{
                "reason": "ResourceVersionTooLarge",
                "message": "Too large resource version",
            }],
            "retryAfterSeconds": 1,
        }))
    }

    /// Seconds for a `Retry-After` header, when the details carry them.
    pub fn retry_after_s(&self) -> Option<u64> {
        self.details.as_ref()?.get("retryAfterSeconds")?.as_u64()
    }

    /// The body.
    pub fn to_json(&self) -> Value {
        let mut body = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        });
        if let Value::Object(body) = &mut body {
            if let Some(details) = &self.details {
                body.insert("details".to_owned(), details.clone());
            }
            body.insert("code".to_owned(), Value::from(self.code));
        }
        body
    }
}

/// `pods`, `deployments.apps`: how messages name a resource or a kind.
pub(crate) fn qualify(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

fn details(resource: &Resource, name: &str) -> Value {
    let mut details = Map::new();
    insert_unless_empty(&mut details, "name", name);
    insert_unless_empty(&mut details, "group", resource.group);
    insert_unless_empty(&mut details, "kind", resource.plural);
    Value::Object(details)
}

fn insert_unless_empty(map: &mut Map<String, Value>, key: &str, value: &str) {
    if !value.is_empty() {
        map.insert(key.to_owned(), Value::from(value));
    }
}

#[cfg(test)]
mod tests;
