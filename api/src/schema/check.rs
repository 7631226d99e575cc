use std::fmt;

use serde_json::Value;

use super::{Scalar, Shape, Type, type_named};
use crate::quantity::{self, Quantity};

/// What is wrong with an object as its type sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Paths of fields the type does not have, as `spec.containers[0].imagee`.
    pub unknown: Vec<String>,
    /// The first value of the wrong type.
    pub wrong_type: Option<TypeError>,
}

/// A value that does not fit its field, told as Go's decoder tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeError {
    /// Another JSON type than the field's.
    Mismatch {
        /// `string`, `number`, `bool`, `object`, `array`; numbers that do not fit with their digits.
        found: String,
        /// The struct that declares the field.
        owner: &'static str,
        /// The path without list indices.
        path: String,
        /// The Go type.
        expected: String,
    },
    /// Text that does not read as the field's type.
    Unreadable(String),
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TypeError::Mismatch {
                found,
                owner,
                path,
                expected,
            } => write!(
                f,
                "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {expected}"
            ),
            TypeError::Unreadable(why) => f.write_str(why),
        }
    }
}

/// Walks an object beside its type.
pub fn check(kind: &Type, object: &Value) -> Findings {
    let mut walk = Walk {
        findings: Findings::default(),
        owner: kind.short_name(),
    };
    walk.structure(kind, object, "", "");
    walk.findings
}

struct Walk {
    findings: Findings,
    owner: &'static str,
}

impl Walk {
    /// `path` has list indices, for people; `go_path` has none, as Go's decoder tells it.
    fn structure(&mut self, kind: &Type, value: &Value, path: &str, go_path: &str) {
        let Value::Object(members) = value else {
            let expected = format!("{}.{}", go_package(kind), kind.short_name());
            return self.mismatch(value, go_path, expected);
        };
        for (key, member) in members {
            let path = join(path, key);
            match kind.field(key) {
                None => self.findings.unknown.push(path),
                Some(field) => {
                    let outer = std::mem::replace(&mut self.owner, kind.short_name());
                    self.value(&field.shape, member, &path, &join(go_path, key));
                    self.owner = outer;
                }
            }
        }
    }

    fn value(&mut self, shape: &Shape, value: &Value, path: &str, go_path: &str) {
        if value.is_null() {
            return;
        }
        match (shape, value) {
            (Shape::Struct(name), _) => {
                let kind = type_named(name).expect("a test checks that named types exist");
                self.structure(kind, value, path, go_path);
            }
            (Shape::List(inner), Value::Array(items)) => {
                for (position, item) in items.iter().enumerate() {
                    self.value(inner, item, &format!("{path}[{position}]"), go_path);
                }
            }
            (Shape::Map(inner), Value::Object(members)) => {
                for (key, member) in members {
                    self.value(inner, member, &join(path, key), go_path);
                }
            }
            (Shape::Scalar(scalar), _) => self.scalar(*scalar, value, go_path),
            (Shape::List(_) | Shape::Map(_), _) => self.mismatch(value, go_path, go_type(shape)),
        }
    }

    fn scalar(&mut self, scalar: Scalar, value: &Value, go_path: &str) {
        let fits = match scalar {
            Scalar::String | Scalar::Bytes | Scalar::Time | Scalar::MicroTime => value.is_string(),
            Scalar::Bool => value.is_boolean(),
            Scalar::Int32 => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            Scalar::Int64 => value.as_i64().is_some(),
            Scalar::Float64 => value.is_number(),
            Scalar::IntOrString => value.is_string() || value.as_i64().is_some(),
            Scalar::Quantity => {
                if Quantity::from_json(value).is_err() {
                    self.note(TypeError::Unreadable(quantity::RULE.to_owned()));
                }
                true
            }
            Scalar::Raw => true,
        };
        if !fits {
            self.mismatch(value, go_path, go_type(&Shape::Scalar(scalar)));
            return;
        }
        if let (Scalar::Time | Scalar::MicroTime, Some(text)) = (scalar, value.as_str())
            && text.parse::<jiff::Timestamp>().is_err()
        {
            self.note(TypeError::Unreadable(format!(
                "parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{text}\" as RFC 3339"
            )));
        }
    }

    fn mismatch(&mut self, value: &Value, go_path: &str, expected: String) {
        let wants_number = expected.starts_with("int") || expected.starts_with("float");
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if wants_number => format!("number {number}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        self.note(TypeError::Mismatch {
            found,
            owner: self.owner,
            path: go_path.to_owned(),
            expected,
        });
    }

    fn note(&mut self, error: TypeError) {
        self.findings.wrong_type.get_or_insert(error);
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// `core.v1.Pod` is in Go's package `v1`.
fn go_package(kind: &Type) -> &'static str {
    kind.name.split('.').nth(1).unwrap_or_default()
}

fn go_type(shape: &Shape) -> String {
    match shape {
        Shape::Struct(name) => name
            .split_once('.')
            .map_or(*name, |(_, rest)| rest)
            .to_owned(),
        Shape::List(inner) => format!("[]{}", go_type(inner)),
        Shape::Map(inner) => format!("map[string]{}", go_type(inner)),
        Shape::Scalar(scalar) => match scalar {
            Scalar::String => "string",
            Scalar::Bool => "bool",
            Scalar::Int32 => "int32",
            Scalar::Int64 => "int64",
            Scalar::Float64 => "float64",
            Scalar::Bytes => "[]uint8",
            Scalar::Time => "v1.Time",
            Scalar::MicroTime => "v1.MicroTime",
            Scalar::Quantity => "resource.Quantity",
            Scalar::IntOrString => "intstr.IntOrString",
            Scalar::Raw => "runtime.RawExtension",
        }
        .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn findings(object: &Value) -> Findings {
        check(
            type_named("apps.v1.Deployment").expect("in the table"),
            object,
        )
    }

    fn check_wrong_type(object: &Value, expect: &str) {
        let error = findings(object).wrong_type.expect("a wrong type");
        assert_eq!(error.to_string(), expect);
    }

    #[test]
    fn unknown_fields_are_told_with_their_index() {
        let object = json!({ "spec": { "replicaz": 1, "template": { "spec": {
            "containers": [{ "name": "a" }, { "name": "b", "imagee": "x" }],
        } } } });
        assert_eq!(
            findings(&object).unknown,
            ["spec.replicaz", "spec.template.spec.containers[1].imagee"]
        );
    }

    #[test]
    fn wrong_types_are_told_as_go_tells_them() {
        check_wrong_type(
            &json!({ "spec": { "replicas": "two" } }),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        );
        check_wrong_type(
            &json!({ "spec": { "replicas": 1.5 } }),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        );
        check_wrong_type(
            &json!({ "spec": { "template": { "spec": { "containers": { "name": "a" } } } } }),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        );
        check_wrong_type(
            &json!({ "metadata": { "labels": { "a": 1 } } }),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        );
        check_wrong_type(
            &json!({ "spec": { "template": { "spec": { "containers": [
                { "resources": { "limits": { "cpu": "lots" } } },
            ] } } } }),
            quantity::RULE,
        );
    }

    #[test]
    fn null_and_bare_numbers_as_quantities_are_fine() {
        let object = json!({ "metadata": { "creationTimestamp": null }, "spec": { "template": {
            "spec": { "containers": [{ "resources": { "limits": { "cpu": 2, "memory": "1Gi" } } }] },
        } } });
        assert_eq!(findings(&object), Findings::default());
    }
}
