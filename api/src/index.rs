use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What selectors may ask of an object, extracted once when it is written so that no list or
/// watch has to decode it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// The resource's selectable fields (`metadata.name`, `spec.nodeName`, …) and their values.
    pub fields: BTreeMap<String, String>,
}
