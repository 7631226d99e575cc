//! The table of resources: one entry each, and everything generic reads from it.

use serde_json::Value;

use crate::status::FieldError;

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
    /// The columns of `kubectl get`.
    pub columns: &'static [Column],
    /// Fields that a field selector may name besides `metadata.name` and `metadata.namespace`,
    /// each with its JSON pointer.
    pub selectable_fields: &'static [(&'static str, &'static str)],
    /// Deserialises into the typed form and back: unknown fields are gone from the result, a
    /// wrong type is an error with its path.
    pub normalize: fn(&Value) -> Result<Value, FieldError>,
    /// Fills in upstream's defaults.
    pub default: fn(&mut Value),
    /// Checks an object; on update `old` is what it replaces (immutable fields).
    pub validate: fn(new: &Value, old: Option<&Value>) -> Vec<FieldError>,
}
