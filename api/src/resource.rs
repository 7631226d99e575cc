//! The table of resources: one entry each, and everything generic reads from it.
//!
//! The entries themselves live in `kinds`, beside their defaults, validation and columns.

use serde_json::Value;

pub use crate::kinds::{
    CONFIG_MAP, DEPLOYMENT, ENDPOINT_SLICE, ENDPOINTS, EVENT, LEASE, NAMESPACE, NODE, POD,
    REPLICA_SET, SECRET, SERVICE, SERVICE_ACCOUNT,
};
use crate::status::{FieldError, qualify};

/// Every resource that is served, in the order discovery lists them.
pub static RESOURCES: &[&Resource] = &[
    &CONFIG_MAP,
    &ENDPOINTS,
    &EVENT,
    &NAMESPACE,
    &NODE,
    &POD,
    &SECRET,
    &SERVICE_ACCOUNT,
    &SERVICE,
    &DEPLOYMENT,
    &REPLICA_SET,
    &LEASE,
    &ENDPOINT_SLICE,
];

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One object a name in the cluster.
    Cluster,
    /// One object a name in a namespace.
    Namespaced,
}

/// Where `/scale` finds its numbers, as JSON pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// `/spec/replicas`.
    pub spec_replicas: &'static str,
    /// `/status/replicas`.
    pub status_replicas: &'static str,
    /// `/spec/selector`, a label selector.
    pub selector: &'static str,
}

/// A subresource with a kind and verbs of its own (`pods/log`, `pods/binding`), as discovery tells
/// it. `/status` and `/scale` are not listed here: they follow from [`Resource::status`] and
/// [`Resource::scale`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// `log`.
    pub name: &'static str,
    /// The group of its kind.
    pub group: &'static str,
    /// The version of its kind.
    pub version: &'static str,
    /// `Pod`, `Eviction`, `Binding`.
    pub kind: &'static str,
    /// `get`, `create`, `update`, `patch`.
    pub verbs: &'static [&'static str],
}

/// A field that a field selector may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectableField {
    /// `spec.nodeName`.
    pub name: &'static str,
    /// `/spec/nodeName`.
    pub pointer: &'static str,
    /// What an object without the field is taken to say: `""`, or `false` for booleans.
    pub absent: &'static str,
}

/// A column of `kubectl get`.
#[derive(Clone, Copy)]
pub struct Column {
    /// The heading, in title case.
    pub name: &'static str,
    /// `string`, `integer`, `date`.
    pub kind: &'static str,
    /// 0 is always shown; 1 only by `-o wide`.
    pub priority: u8,
    /// What the help of the API says about it.
    pub description: &'static str,
    /// The cell of one object; ages are computed against `now`.
    pub cell: fn(object: &Value, now: jiff::Timestamp) -> Value,
}

/// One resource of the API.
pub struct Resource {
    /// `""` for the core group.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// `Deployment`.
    pub kind: &'static str,
    /// `deployments`.
    pub plural: &'static str,
    /// `deployment`.
    pub singular: &'static str,
    /// `["deploy"]`.
    pub short_names: &'static [&'static str],
    /// `["all"]`.
    pub categories: &'static [&'static str],
    /// Cluster or namespaced.
    pub scope: Scope,
    /// Whether `/status` is a subresource (then spec writes ignore status and the reverse, and a
    /// change of spec moves `metadata.generation`).
    pub status: bool,
    /// Whether and how `/scale` is served.
    pub scale: Option<ScalePaths>,
    /// Further subresources.
    pub subresources: &'static [Subresource],
    /// The columns of `kubectl get`.
    pub columns: &'static [Column],
    /// Fields that a field selector may name besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: &'static [SelectableField],
    /// The name of its type in the table of types, as `core.v1.Pod`.
    pub type_name: &'static str,
    /// Deserialises into the typed form and back: unknown fields are gone from the result, a
    /// wrong type is an error with its path.
    pub normalize: fn(&Value) -> Result<Value, FieldError>,
    /// Fills in upstream's defaults.
    pub default: fn(&mut Value),
    /// Checks an object; on update `old` is what it replaces (immutable fields).
    pub validate: fn(new: &Value, old: Option<&Value>) -> Vec<FieldError>,
    /// What whoever writes a valid object should know all the same, for `Warning: 299` headers.
    pub warnings: fn(new: &Value) -> Vec<String>,
}

impl Resource {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods`, `deployments.apps`: how messages name it.
    pub fn qualified_plural(&self) -> String {
        qualify(self.plural, self.group)
    }

    /// `PodList`.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// Whether objects live in a namespace.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.qualified_plural())
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        (self.group, self.version, self.plural) == (other.group, other.version, other.plural)
    }
}

impl Eq for Resource {}

/// The resource behind a path, as `("apps", "v1", "deployments")`.
pub fn by_plural(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The resource of a kind, as `("apps", "v1", "Deployment")`.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    find(|r| r.group == group && r.version == version && r.kind == kind)
}

/// The resource of a Rust type.
///
/// # Panics
/// If the type is not in the table.
pub fn of<K: k8s_openapi::Resource>() -> &'static Resource {
    by_kind(K::GROUP, K::VERSION, K::KIND)
        .unwrap_or_else(|| panic!("{} {} is not a served resource", K::API_VERSION, K::KIND))
}

fn find(accept: impl Fn(&Resource) -> bool) -> Option<&'static Resource> {
    RESOURCES.iter().copied().find(|resource| accept(resource))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;

    use super::*;

    #[test]
    fn resources_are_found_by_path_kind_and_type() {
        assert_eq!(by_plural("", "v1", "pods"), Some(&POD));
        assert_eq!(by_plural("apps", "v1", "pods"), None);
        assert_eq!(by_kind("apps", "v1", "Deployment"), Some(&DEPLOYMENT));
        assert_eq!(of::<Deployment>(), &DEPLOYMENT);
    }

    #[test]
    fn names_short_names_and_kinds_are_unique() {
        let mut names: Vec<&str> = RESOURCES
            .iter()
            .flat_map(|r| r.short_names.iter().copied().chain([r.plural]))
            .collect();
        let total = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), total);
    }
}
