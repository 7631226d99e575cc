//! From bytes to objects: JSON, YAML and protobuf in, normalised JSON values out.

mod duplicates;
mod protobuf;

use serde_json::Value;

pub use protobuf::protobuf;

use crate::resource::Resource;
use crate::schema::{self, type_named};
use crate::status::Status;

/// What to do about fields a type does not have, and fields given twice: the `fieldValidation`
/// parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Refuse.
    Strict,
    /// Drop, and warn. Upstream's default.
    #[default]
    Warn,
    /// Drop.
    Ignore,
}

impl FieldValidation {
    /// Reads the query parameter; absent or empty is [`FieldValidation::Warn`].
    pub fn parse(parameter: Option<&str>) -> Result<Self, Status> {
        match parameter.unwrap_or_default() {
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            "Ignore" => Ok(Self::Ignore),
            other => Err(Status::bad_request(format!(
                "invalid fieldValidation parameter: \"{other}\": supported values: Ignore, Warn, Strict"
            ))),
        }
    }
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, normalised: it has only known fields, and `apiVersion` and `kind`.
    pub value: Value,
    /// For `Warning: 299` headers.
    pub warnings: Vec<String>,
}

/// Decodes a JSON body as an object of `resource`.
pub fn json(
    resource: &Resource,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let (parsed, duplicates) =
        duplicates::parse(body).map_err(|error| cannot_be_handled(resource, &error.to_string()))?;
    complete(resource, parsed, duplicates, validation)
}

/// Decodes a YAML body (one document) as an object of `resource`.
pub fn yaml(
    resource: &Resource,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let parsed = yaml_value(body)?;
    complete(resource, parsed, Vec::new(), validation)
}

/// Decodes YAML of any kind (an apply patch, `DeleteOptions`).
pub fn yaml_value(body: &[u8]) -> Result<Value, Status> {
    serde_yaml_ng::from_slice(body)
        .map_err(|error| Status::bad_request(format!("error converting YAML to JSON: {error}")))
}

/// Checks and normalises an object that is JSON already: the outcome of a patch, or of
/// [`protobuf`].
pub fn value(
    resource: &Resource,
    value: Value,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    complete(resource, value, Vec::new(), validation)
}

fn complete(
    resource: &Resource,
    mut value: Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    require_kind(resource, &mut value)?;
    let kind = type_named(resource.type_name).expect("a test checks that every resource's exists");
    let findings = schema::check(kind, &value);
    if let Some(error) = findings.wrong_type {
        return Err(cannot_be_handled(resource, &error.to_string()));
    }

    let unknown = findings.unknown.iter();
    let complaints: Vec<String> = unknown
        .map(|path| format!("unknown field \"{path}\""))
        .chain(
            duplicates
                .iter()
                .map(|path| format!("duplicate field \"{path}\"")),
        )
        .collect();
    if validation == FieldValidation::Strict && !complaints.is_empty() {
        return Err(cannot_be_handled(
            resource,
            &format!("strict decoding error: {}", complaints.join(", ")),
        ));
    }

    let mut value = (resource.normalize)(&value).map_err(|error| {
        cannot_be_handled(resource, &format!("{}: {}", error.field, error.message))
    })?;
    if let Value::Object(members) = &mut value {
        schema::canonicalize(kind, members);
    }
    let warnings = match validation {
        FieldValidation::Warn => complaints,
        FieldValidation::Strict | FieldValidation::Ignore => Vec::new(),
    };
    Ok(Decoded { value, warnings })
}

/// Fills in an absent `apiVersion` and `kind`; refuses others than the resource's.
fn require_kind(resource: &Resource, value: &mut Value) -> Result<(), Status> {
    let Value::Object(members) = value else {
        return Err(Status::bad_request(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
            json_type(value)
        )));
    };
    let given = |key: &str| -> String {
        let text = members.get(key).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let (api_version, kind) = (given("apiVersion"), given("kind"));
    if !kind.is_empty() && kind != resource.kind {
        return Err(Status::bad_request(format!(
            "the kind in the data ({kind}) does not match the expected kind ({})",
            resource.kind
        )));
    }
    if !api_version.is_empty() && api_version != resource.api_version() {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            resource.api_version()
        )));
    }
    members.insert("apiVersion".to_owned(), resource.api_version().into());
    members.insert("kind".to_owned(), resource.kind.into());
    Ok(())
}

fn cannot_be_handled(resource: &Resource, why: &str) -> Status {
    Status::bad_request(format!(
        "{} in version \"{}\" cannot be handled as a {}: {why}",
        resource.kind, resource.version, resource.kind
    ))
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::{DEPLOYMENT, POD};

    fn refused(resource: &Resource, body: &str) -> String {
        let error = json(resource, body.as_bytes(), FieldValidation::Strict);
        error.expect_err("refused").message
    }

    #[test]
    fn strict_decoding_refuses_unknown_and_duplicate_fields_by_path() {
        assert_eq!(
            refused(&DEPLOYMENT, r#"{"spec":{"replicaz":1}}"#),
            r#"Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "spec.replicaz""#
        );
        assert_eq!(
            refused(&DEPLOYMENT, r#"{"spec":{"replicas":1,"replicas":2,"x":1}}"#),
            r#"Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "spec.x", duplicate field "spec.replicas""#
        );
    }

    #[test]
    fn warn_drops_unknown_fields_and_tells() {
        let body = br#"{"metadata":{"name":"a"},"spec":{"replicaz":1}}"#;
        let decoded = json(&DEPLOYMENT, body, FieldValidation::Warn).expect("decoded");
        assert_eq!(decoded.warnings, [r#"unknown field "spec.replicaz""#]);
        assert_eq!(decoded.value["spec"].get("replicaz"), None);
    }

    #[test]
    fn a_missing_kind_is_filled_in_and_another_one_refused() {
        let decoded = json(
            &POD,
            br#"{"metadata":{"name":"a"}}"#,
            FieldValidation::Strict,
        )
        .expect("decoded")
        .value;
        assert_eq!(
            (&decoded["apiVersion"], &decoded["kind"]),
            (&json!("v1"), &json!("Pod"))
        );
        assert_eq!(
            refused(&POD, r#"{"kind":"Service"}"#),
            "the kind in the data (Service) does not match the expected kind (Pod)"
        );
        assert_eq!(
            refused(&POD, r#"{"apiVersion":"apps/v1"}"#),
            "the API version in the data (apps/v1) does not match the expected API version (v1)"
        );
    }

    #[test]
    fn a_wrong_type_names_the_path() {
        assert_eq!(
            refused(&POD, r#"{"spec":{"hostNetwork":"yes"}}"#),
            r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool"#
        );
    }

    #[test]
    fn yaml_decodes_like_json() {
        let body = b"kind: Pod\nspec:\n  containers:\n  - name: a\n    image: b\n";
        let decoded = yaml(&POD, body, FieldValidation::Strict).expect("decoded");
        assert_eq!(decoded.value["spec"]["containers"][0]["image"], "b");
    }
}
