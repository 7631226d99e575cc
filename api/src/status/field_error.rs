use std::fmt;

use serde_json::{Value, json};

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

impl FieldError {
    /// A field that must be given. `hint` may be empty.
    pub fn required(field: impl Into<String>, hint: &str) -> Self {
        let message = if hint.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {hint}")
        };
        Self::new("FieldValueRequired", field, message)
    }

    /// A value that breaks a rule; `rule` says what would be right.
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, rule: &str) -> Self {
        let message = format!("Invalid value: {}: {rule}", shown(&value.into()));
        Self::new("FieldValueInvalid", field, message)
    }

    /// A value that is not one of the supported ones.
    pub fn not_supported(
        field: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) -> Self {
        let supported: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        let message = format!(
            "Unsupported value: {}: supported values: {}",
            shown(&value.into()),
            supported.join(", ")
        );
        Self::new("FieldValueNotSupported", field, message)
    }

    /// A field that must not be given, or not be changed, here.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self::new("FieldValueForbidden", field, format!("Forbidden: {why}"))
    }

    /// A value that another item of the same list already has.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        let message = format!("Duplicate value: {}", shown(&value.into()));
        Self::new("FieldValueDuplicate", field, message)
    }

    /// A reference to something that does not exist.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        let message = format!("Not found: {}", shown(&value.into()));
        Self::new("FieldValueNotFound", field, message)
    }

    /// A value longer than allowed.
    pub fn too_long(field: impl Into<String>, bytes_max: usize) -> Self {
        let message = format!("Too long: may not be more than {bytes_max} bytes");
        Self::new("FieldValueTooLong", field, message)
    }

    fn new(reason: &'static str, field: impl Into<String>, message: String) -> Self {
        Self {
            reason,
            field: field.into(),
            message,
        }
    }

    /// The entry in `details.causes`.
    pub fn to_cause(&self) -> Value {
        json!({ "reason": self.reason, "message": self.message, "field": self.field })
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Values as upstream shows them: strings quoted, `nil` as `null`, structures as JSON.
fn shown(value: &Value) -> String {
    value.to_string()
}
