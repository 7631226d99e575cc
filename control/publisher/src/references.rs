//! The ConfigMaps and Secrets that a pod needs on its node.

use std::collections::BTreeSet;

use fairlead_objects::Object;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeProjection};

use crate::state::ObjectKey;

/// The objects a pod refers to, whether or not they exist.
pub(crate) fn of_pod(pod: &Pod) -> BTreeSet<ObjectKey> {
    let Some(spec) = &pod.spec else {
        return BTreeSet::new();
    };
    let mut maps: BTreeSet<String> = BTreeSet::new();
    let mut secrets: BTreeSet<String> = BTreeSet::new();
    for volume in spec.volumes.iter().flatten() {
        maps.extend(volume.config_map.as_ref().map(|source| source.name.clone()));
        secrets.extend(
            volume
                .secret
                .as_ref()
                .and_then(|source| source.secret_name.clone()),
        );
        let sources = volume
            .projected
            .as_ref()
            .and_then(|projected| projected.sources.as_deref());
        for source in sources.unwrap_or_default() {
            let VolumeProjection {
                config_map, secret, ..
            } = source;
            maps.extend(config_map.as_ref().map(|source| source.name.clone()));
            secrets.extend(secret.as_ref().map(|source| source.name.clone()));
        }
    }
    secrets.extend(
        spec.image_pull_secrets
            .iter()
            .flatten()
            .map(|secret| secret.name.clone()),
    );
    for container in spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
    {
        of_container(container, &mut maps, &mut secrets);
    }
    let namespace = pod.object_name().namespace;
    let key = |kind: &str, name: String| (kind.to_owned(), namespace.clone(), name);
    let maps = maps.into_iter().map(|name| key("ConfigMap", name));
    maps.chain(secrets.into_iter().map(|name| key("Secret", name)))
        .collect()
}

fn of_container(
    container: &Container,
    maps: &mut BTreeSet<String>,
    secrets: &mut BTreeSet<String>,
) {
    for source in container.env_from.iter().flatten() {
        maps.extend(
            source
                .config_map_ref
                .as_ref()
                .map(|source| source.name.clone()),
        );
        secrets.extend(source.secret_ref.as_ref().map(|source| source.name.clone()));
    }
    let variables = container.env.iter().flatten();
    for source in variables.filter_map(|variable| variable.value_from.as_ref()) {
        maps.extend(
            source
                .config_map_key_ref
                .as_ref()
                .map(|source| source.name.clone()),
        );
        secrets.extend(
            source
                .secret_key_ref
                .as_ref()
                .map(|source| source.name.clone()),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_refer_is_found() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "imagePullSecrets": [{"name": "s-pull"}],
                "volumes": [
                    {"name": "a", "configMap": {"name": "m-volume"}},
                    {"name": "b", "secret": {"secretName": "s-volume"}},
                    {"name": "c", "projected": {"sources": [{"configMap": {"name": "m-projected"}}, {"secret": {"name": "s-projected"}}]}},
                ],
                "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "m-all"}}, {"secretRef": {"name": "s-all"}}]}],
                "containers": [{"name": "c", "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m-key", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s-key", "key": "k"}}},
                ]}],
            },
        }))
        .unwrap();
        let names: Vec<_> = of_pod(&pod).into_iter().map(|(_, _, name)| name).collect();
        assert_eq!(
            names,
            [
                "m-all",
                "m-key",
                "m-projected",
                "m-volume",
                "s-all",
                "s-key",
                "s-projected",
                "s-pull",
                "s-volume"
            ]
        );
    }
}
