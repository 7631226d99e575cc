//! A container's environment: the image's, then `envFrom`, then `env`, with `$(NAME)` expanded.

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

use super::{Surroundings, fields};
use crate::objects::{Objects, ReferenceError, Source};

/// What a container without a PATH gets; a runtime could find no command without one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables in order, each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment(Vec<(String, String)>);

impl Environment {
    /// The environment of a container of `pod`.
    pub(crate) fn of(
        container: &Container,
        pod: &Pod,
        image: &[String],
        hostname: &str,
        objects: &Objects,
        surroundings: &Surroundings,
    ) -> Result<Self, ReferenceError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut environment = Self::default();
        environment.set("PATH", DEFAULT_PATH.to_owned());
        environment.set("HOSTNAME", hostname.to_owned());
        for variable in image {
            if let Some((name, value)) = variable.split_once('=') {
                environment.set(name, value.to_owned());
            }
        }
        for from in container.env_from.iter().flatten() {
            let (source, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
                (Some(map), _) => (Source::ConfigMap, &map.name, map.optional),
                (None, Some(secret)) => (Source::Secret, &secret.name, secret.optional),
                (None, None) => continue,
            };
            let prefix = from.prefix.as_deref().unwrap_or_default();
            match objects.entries(source, namespace, name) {
                Ok(entries) => {
                    for (key, value) in entries {
                        // What is no text can be no variable.
                        if let Ok(value) = String::from_utf8(value) {
                            environment.set(&format!("{prefix}{key}"), value);
                        }
                    }
                }
                Err(_) if optional == Some(true) => {}
                Err(error) => return Err(error),
            }
        }
        for variable in container.env.iter().flatten() {
            let resolve = || resolve(variable, container, pod, objects, surroundings);
            if let Some(value) = match &variable.value_from {
                None => Some(environment.expand(variable.value.as_deref().unwrap_or_default())),
                Some(_) => resolve()?,
            } {
                environment.set(&variable.name, value);
            }
        }
        Ok(environment)
    }

    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Replaces `$(NAME)` by the variable's value; `$$` is a dollar; an unknown name stays.
    pub(crate) fn expand(&self, text: &str) -> String {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            expanded.push_str(&rest[..dollar]);
            rest = &rest[dollar + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                expanded.push('$');
                rest = after;
            } else if let Some((name, after)) = rest
                .strip_prefix('(')
                .and_then(|inner| inner.split_once(')'))
            {
                match self.get(name) {
                    Some(value) => expanded.push_str(value),
                    None => expanded.push_str(&format!("$({name})")),
                }
                rest = after;
            } else {
                expanded.push('$');
            }
        }
        expanded.push_str(rest);
        expanded
    }

    /// As an OCI spec lists it.
    pub(crate) fn to_list(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

/// The value of `valueFrom`; `None` if it is optional and absent.
fn resolve(
    variable: &EnvVar,
    container: &Container,
    pod: &Pod,
    objects: &Objects,
    surroundings: &Surroundings,
) -> Result<Option<String>, ReferenceError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(source) = &variable.value_from else {
        return Ok(None);
    };
    let (kind, name, key, optional) = if let Some(reference) = &source.config_map_key_ref {
        (
            Source::ConfigMap,
            &reference.name,
            &reference.key,
            reference.optional,
        )
    } else if let Some(reference) = &source.secret_key_ref {
        (
            Source::Secret,
            &reference.name,
            &reference.key,
            reference.optional,
        )
    } else if let Some(reference) = &source.field_ref {
        return fields::field(reference, pod, surroundings).map(Some);
    } else if let Some(reference) = &source.resource_field_ref {
        return fields::resource(reference, pod, &container.name, surroundings).map(Some);
    } else {
        return Ok(None);
    };
    match objects.text(kind, namespace, name, key) {
        Ok(text) => Ok(Some(text)),
        Err(_) if optional == Some(true) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(spec: serde_json::Value, objects: &Objects) -> Result<Environment, String> {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "a"}},
            "spec": {"containers": [spec]},
        }))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let surroundings = Surroundings::for_tests();
        Environment::of(
            container,
            &pod,
            &["A=image".into()],
            "p",
            objects,
            &surroundings,
        )
        .map_err(|error| error.to_string())
    }

    fn objects() -> Objects {
        let map = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "m", "namespace": "n"}, "data": {"KEY": "value"},
        }))
        .unwrap();
        Objects::new([map], [])
    }

    #[test]
    fn later_sources_override_and_references_are_expanded() {
        let environment = environment(
            serde_json::json!({
                "name": "c",
                "envFrom": [{"configMapRef": {"name": "m"}, "prefix": "X_"}],
                "env": [
                    {"name": "A", "value": "own"},
                    {"name": "B", "value": "$(A)-$(X_KEY)-$(NONE)-$$(A)"},
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "APP", "valueFrom":
                        {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    {"name": "K", "valueFrom":
                        {"configMapKeyRef": {"name": "m", "key": "KEY"}}},
                    {"name": "O", "valueFrom":
                        {"configMapKeyRef": {"name": "none", "key": "k", "optional": true}}},
                ],
            }),
            &objects(),
        )
        .unwrap();
        let get = |name: &str| environment.get(name);
        assert_eq!(get("A"), Some("own"));
        assert_eq!(get("B"), Some("own-value-$(NONE)-$(A)"));
        assert_eq!(get("NODE"), Some("node-1"));
        assert_eq!(get("APP"), Some("a"));
        assert_eq!(get("K"), Some("value"));
        assert_eq!(get("O"), None);
    }

    #[test]
    fn missing_key_is_named() {
        let result = environment(
            serde_json::json!({"name": "c", "env": [
                {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "nope"}}},
            ]}),
            &objects(),
        );
        assert_eq!(
            result.unwrap_err(),
            "couldn't find key nope in configmap \"m\""
        );
    }
}
