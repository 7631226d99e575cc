//! The ConfigMaps and Secrets that pods of this node refer to.

use std::collections::BTreeMap;

use k8s_openapi::{
    Metadata,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// All of them, by namespace and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    config_maps: BTreeMap<(String, String), ConfigMap>,
    secrets: BTreeMap<(String, String), Secret>,
}

/// A reference that leads nowhere: `CreateContainerConfigError` or a volume that waits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReferenceError {
    #[error("{kind} {name:?} not found")]
    NotFound { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {name:?}")]
    NoKey {
        kind: &'static str,
        name: String,
        key: String,
    },
    #[error("key {key} of {kind} {name:?} is not UTF-8 text")]
    NotText {
        kind: &'static str,
        name: String,
        key: String,
    },
    #[error("field {0:?} of a pod is not offered to its containers")]
    Field(String),
}

/// Which of the two kinds a reference means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    ConfigMap,
    Secret,
}

fn by_name<K: Metadata<Ty = ObjectMeta>>(
    objects: impl IntoIterator<Item = K>,
) -> BTreeMap<(String, String), K> {
    let named = objects.into_iter().filter_map(|object| {
        let metadata = object.metadata();
        Some((
            (metadata.namespace.clone()?, metadata.name.clone()?),
            object,
        ))
    });
    named.collect()
}

impl Source {
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

impl Objects {
    /// Collects objects; one without a name or namespace is nobody's and left out.
    pub fn new(
        config_maps: impl IntoIterator<Item = ConfigMap>,
        secrets: impl IntoIterator<Item = Secret>,
    ) -> Self {
        Self {
            config_maps: by_name(config_maps),
            secrets: by_name(secrets),
        }
    }

    /// Everything an object holds.
    pub(crate) fn entries(
        &self,
        source: Source,
        namespace: &str,
        name: &str,
    ) -> Result<BTreeMap<String, Vec<u8>>, ReferenceError> {
        let key = (namespace.to_owned(), name.to_owned());
        let entries = match source {
            Source::ConfigMap => self.config_maps.get(&key).map(|object| {
                let text = object.data.iter().flatten();
                let binary = object.binary_data.iter().flatten();
                text.map(|(key, value)| (key.clone(), value.clone().into_bytes()))
                    .chain(binary.map(|(key, value)| (key.clone(), value.0.clone())))
                    .collect()
            }),
            Source::Secret => self.secrets.get(&key).map(|object| {
                let data = object.data.iter().flatten();
                let text = object.string_data.iter().flatten();
                data.map(|(key, value)| (key.clone(), value.0.clone()))
                    .chain(text.map(|(key, value)| (key.clone(), value.clone().into_bytes())))
                    .collect()
            }),
        };
        entries.ok_or_else(|| ReferenceError::NotFound {
            kind: source.kind(),
            name: name.to_owned(),
        })
    }

    /// One entry, as text.
    pub(crate) fn text(
        &self,
        source: Source,
        namespace: &str,
        name: &str,
        key: &str,
    ) -> Result<String, ReferenceError> {
        let kind = source.kind();
        let (name_owned, key_owned) = (name.to_owned(), key.to_owned());
        let bytes = self
            .entries(source, namespace, name)?
            .remove(key)
            .ok_or_else(|| ReferenceError::NoKey {
                kind,
                name: name_owned.clone(),
                key: key_owned.clone(),
            })?;
        String::from_utf8(bytes).map_err(|_| ReferenceError::NotText {
            kind,
            name: name_owned,
            key: key_owned,
        })
    }
}
