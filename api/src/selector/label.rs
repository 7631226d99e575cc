use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1;

use super::ParseError;
use crate::names;

/// A conjunction of requirements on labels. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// Reads the query form: `app=web,tier!=db,env in (a,b),!legacy,zone,cores>4`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let requirements = split_terms(text)
            .into_iter()
            .filter(|term| !term.trim().is_empty())
            .map(|term| parse_requirement(term.trim()))
            .collect::<Result<_, _>>()?;
        Ok(Self { requirements })
    }

    /// Reads the object form. An empty one selects everything; whether an absent one selects
    /// everything or nothing is the caller's to know.
    pub fn from_object(object: &v1::LabelSelector) -> Result<Self, ParseError> {
        let equalities = object.match_labels.iter().flatten();
        let mut requirements: Vec<Requirement> = equalities
            .map(|(key, value)| Requirement {
                key: key.clone(),
                test: Test::In(BTreeSet::from([value.clone()])),
            })
            .collect();
        for expression in object.match_expressions.iter().flatten() {
            let values = || expression.values.iter().flatten().cloned().collect();
            let test = match expression.operator.as_str() {
                "In" => Test::In(values()),
                "NotIn" => Test::NotIn(values()),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::DoesNotExist,
                other => {
                    return Err(ParseError(format!(
                        "\"{other}\" is not a valid label selector operator"
                    )));
                }
            };
            requirements.push(Requirement {
                key: expression.key.clone(),
                test,
            });
        }
        Ok(Self { requirements })
    }

    /// A selector of exactly these labels, as a Service's `spec.selector` means it.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirements = labels
            .into_iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                test: Test::In(BTreeSet::from([value.clone()])),
            })
            .collect();
        Self { requirements }
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.test.accepts(labels.get(&requirement.key)))
    }
}

impl Test {
    fn accepts(&self, value: Option<&String>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match self {
            Test::In(set) => value.is_some_and(|v| set.contains(v)),
            Test::NotIn(set) => value.is_none_or(|v| !set.contains(v)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
            Test::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            Test::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

/// The query form, as `status.selector` of a `Scale` and error messages show it.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, Requirement { key, test }) in self.requirements.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            let list = |set: &BTreeSet<String>| -> String {
                set.iter().map(String::as_str).collect::<Vec<_>>().join(",")
            };
            match test {
                Test::In(set) if set.len() == 1 => write!(f, "{key}={}", list(set))?,
                Test::In(set) => write!(f, "{key} in ({})", list(set))?,
                Test::NotIn(set) if set.len() == 1 => write!(f, "{key}!={}", list(set))?,
                Test::NotIn(set) => write!(f, "{key} notin ({})", list(set))?,
                Test::Exists => f.write_str(key)?,
                Test::DoesNotExist => write!(f, "!{key}")?,
                Test::GreaterThan(bound) => write!(f, "{key}>{bound}")?,
                Test::LessThan(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

/// Splits at the commas outside parentheses.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut depth) = (0, 0_u32);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn parse_requirement(term: &str) -> Result<Requirement, ParseError> {
    if let Some(key) = term.strip_prefix('!') {
        return requirement(key, Test::DoesNotExist);
    }
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    if let Some((key, value)) = term.split_once("!=") {
        return requirement(key, Test::NotIn(one(value)));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return requirement(key, Test::In(one(value)));
    }
    if let Some((key, bound)) = term.split_once('>') {
        return requirement(key, Test::GreaterThan(number(bound)?));
    }
    if let Some((key, bound)) = term.split_once('<') {
        return requirement(key, Test::LessThan(number(bound)?));
    }
    if let Some((left, list)) = term.split_once('(') {
        let list = list.strip_suffix(')').ok_or_else(|| {
            ParseError(format!(
                "unable to parse requirement: found '{term}', expected: ',' or ')'"
            ))
        })?;
        let set = list.split(',').map(|v| v.trim().to_owned()).collect();
        let left = left.trim();
        if let Some(key) = left.strip_suffix(" notin") {
            return requirement(key, Test::NotIn(set));
        }
        if let Some(key) = left.strip_suffix(" in") {
            return requirement(key, Test::In(set));
        }
        return Err(ParseError(format!(
            "unable to parse requirement: found '{left}', expected: in, notin, =, ==, !=, gt, lt"
        )));
    }
    requirement(term, Test::Exists)
}

fn requirement(key: &str, test: Test) -> Result<Requirement, ParseError> {
    let key = key.trim();
    if key.contains(char::is_whitespace) {
        let word = key.split_whitespace().nth(1).unwrap_or_default();
        return Err(ParseError(format!(
            "unable to parse requirement: found '{word}', expected: in, notin, =, ==, !=, gt, lt"
        )));
    }
    if let Some(rule) = names::qualified_name(key).into_iter().next() {
        return Err(ParseError(format!(
            "unable to parse requirement: <nil>: Invalid value: \"{key}\": {rule}"
        )));
    }
    if let Test::In(values) | Test::NotIn(values) = &test {
        for value in values {
            if let Some(rule) = names::label_value(value) {
                return Err(ParseError(format!(
                    "unable to parse requirement: values[0][{key}]: Invalid value: \"{value}\": {rule}"
                )));
            }
        }
    }
    Ok(Requirement {
        key: key.to_owned(),
        test,
    })
}

fn number(text: &str) -> Result<i64, ParseError> {
    text.trim().parse().map_err(|_| {
        ParseError(format!(
            "unable to parse requirement: values[0]: Invalid value: \"{}\": for 'Gt', 'Lt' operators, the value must be an integer",
            text.trim()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn check(selector: &str, selected: &[(&str, &str)], expect: bool) {
        let parsed = LabelSelector::parse(selector).expect(selector);
        assert_eq!(
            parsed.matches(&labels(selected)),
            expect,
            "{selector} on {selected:?}"
        );
    }

    #[test]
    fn every_form_of_requirement_selects_as_upstream() {
        let web = [("app", "web"), ("cores", "8")];
        check("", &web, true);
        check("app=web", &web, true);
        check("app==web", &web, true);
        check("app = db", &web, false);
        check("app!=db", &web, true);
        check("tier!=db", &web, true);
        check("app in (web, db)", &web, true);
        check("app notin (web,db),cores", &web, false);
        check("tier notin (web)", &web, true);
        check("cores", &web, true);
        check("!cores", &web, false);
        check("cores>4", &web, true);
        check("cores<4", &web, false);
        check("app=", &[("app", "")], true);
        check(
            "app.kubernetes.io/name=x",
            &[("app.kubernetes.io/name", "x")],
            true,
        );
    }

    #[test]
    fn what_does_not_read_as_a_selector_is_refused() {
        for text in [
            "app in (web",
            "app like web",
            "a b",
            "cores>many",
            "=x",
            "app=a b",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_object_form_means_what_its_query_form_says() {
        let object: v1::LabelSelector = serde_json::from_value(serde_json::json!({
            "matchLabels": { "app": "web" },
            "matchExpressions": [
                { "key": "env", "operator": "In", "values": ["a", "b"] },
                { "key": "old", "operator": "DoesNotExist" },
            ],
        }))
        .expect("a selector");
        let selector = LabelSelector::from_object(&object).expect("valid operators");
        assert_eq!(selector.to_string(), "app=web,env in (a,b),!old");
        assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
    }
}
