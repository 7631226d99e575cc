use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// `/registry/<group>/<resource>/<namespace>/<name>`, or without the namespace for cluster-scoped
/// resources. The core group is `core`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of one object.
    pub fn object(group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Self {
        let mut path = Self::prefix(group, plural, namespace);
        path.push_str(name);
        Self(path.into())
    }

    /// What the keys of a resource (in one namespace, or in all) begin with; ends in `/`.
    pub fn prefix(group: &str, plural: &str, namespace: Option<&str>) -> String {
        let group = if group.is_empty() { "core" } else { group };
        match namespace {
            Some(namespace) => format!("/registry/{group}/{plural}/{namespace}/"),
            None => format!("/registry/{group}/{plural}/"),
        }
    }

    /// A key read back from a continue token, the log or a snapshot.
    pub fn raw(path: impl Into<Arc<str>>) -> Self {
        Self(path.into())
    }

    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

/// A key sorts, compares and hashes as its path does, so maps of keys can be searched by path.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
