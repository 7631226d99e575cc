//! The `Status` object every failed request answers with.
//!
//! Source: `k8s.io/apimachinery/pkg/api/errors`, messages as kubectl users know them.

use serde_json::Value;

/// One thing wrong with one field, as in a `StatusCause`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, `FieldValueForbidden`,
    /// `FieldValueDuplicate`.
    pub reason: &'static str,
    /// The path, as `spec.ports[0].port`.
    pub field: String,
    /// What a person reads after the path, as `Invalid value: 70000: must be between 1 and 65535`.
    pub message: String,
}

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
