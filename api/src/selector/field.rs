use std::collections::BTreeMap;

use super::ParseError;
use crate::resource::Resource;

/// A conjunction of equalities and inequalities on a resource's selectable fields. The default
/// selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// Reads `status.phase!=Running,spec.nodeName=n1`; `\` escapes `,`, `=` and itself. A field
    /// that the resource does not declare is refused.
    pub fn parse(resource: &Resource, text: &str) -> Result<Self, ParseError> {
        let terms = split_unescaped(text)
            .into_iter()
            .filter(|term| !term.is_empty())
            .map(|term| parse_term(resource, term))
            .collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The one name an object must have, if the selector says so: a list of it is a single read.
    pub fn required_name(&self) -> Option<&str> {
        self.terms
            .iter()
            .find(|term| term.equal && term.field == "metadata.name")
            .map(|term| term.value.as_str())
    }

    /// Whether an object with these fields ([`crate::Index::fields`]) is selected.
    pub fn matches(&self, fields: &BTreeMap<String, String>) -> bool {
        self.terms.iter().all(|term| {
            let value = fields.get(&term.field).map_or("", String::as_str);
            (value == term.value) == term.equal
        })
    }
}

fn parse_term(resource: &Resource, term: &str) -> Result<Term, ParseError> {
    let (field, value, equal) = if let Some((field, value)) = term.split_once("!=") {
        (field, value, false)
    } else if let Some((field, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (field, value, true)
    } else {
        return Err(ParseError(format!(
            "invalid selector: '{term}'; can't understand '{term}'"
        )));
    };
    let served = field == "metadata.name"
        || (field == "metadata.namespace" && resource.is_namespaced())
        || resource.selectable_fields.iter().any(|f| f.name == field);
    if !served {
        return Err(ParseError(format!("field label not supported: {field}")));
    }
    Ok(Term {
        field: field.to_owned(),
        value: unescape(value)?,
        equal,
    })
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, byte) in text.bytes().enumerate() {
        if escaped {
            escaped = false;
        } else if byte == b'\\' {
            escaped = true;
        } else if byte == b',' {
            terms.push(&text[start..at]);
            start = at + 1;
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(value: &str) -> Result<String, ParseError> {
    let mut out = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                _ => {
                    return Err(ParseError(format!(
                        "invalid field selector: invalid escape sequence in value: {value}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(ParseError(format!(
                    "invalid field selector: unescaped character in value: {character}"
                )));
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::index;
    use crate::resource::{NAMESPACE, POD};

    fn check(selector: &str, expect: bool) {
        let pod = json!({
            "metadata": { "name": "a", "namespace": "ns" },
            "spec": { "nodeName": "n1" }, "status": { "phase": "Running" },
        });
        let parsed = FieldSelector::parse(&POD, selector).expect(selector);
        assert_eq!(
            parsed.matches(&index(&POD, &pod).fields),
            expect,
            "{selector}"
        );
    }

    #[test]
    fn equality_and_inequality_select_on_declared_fields() {
        check("", true);
        check("metadata.name=a", true);
        check("spec.nodeName==n1,status.phase!=Failed", true);
        check("spec.nodeName=", false);
        check("status.phase!=Running", false);
        check(r"metadata.name=a\,b", false);
    }

    #[test]
    fn an_undeclared_field_is_refused_by_name() {
        let refused = FieldSelector::parse(&POD, "spec.colour=red").expect_err("undeclared");
        assert_eq!(
            refused.to_string(),
            "field label not supported: spec.colour"
        );
        assert!(FieldSelector::parse(&NAMESPACE, "metadata.namespace=x").is_err());
    }
}
