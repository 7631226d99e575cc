//! Who controls an object, and who may take it over.

use std::collections::BTreeMap;

use fairlead_api::selector::LabelSelector;
use fairlead_objects::Object;
use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::{self, ObjectMeta, OwnerReference},
};

/// An object that controls others by a label selector.
pub(crate) trait Selecting: Object {
    fn selector(&self) -> &v1::LabelSelector;
}

impl Selecting for Deployment {
    fn selector(&self) -> &v1::LabelSelector {
        &self.spec.selector
    }
}

impl Selecting for ReplicaSet {
    fn selector(&self) -> &v1::LabelSelector {
        &self.spec.selector
    }
}

/// Whether `owner` selects `object`. A selector that is empty or cannot be read selects nothing.
pub(crate) fn selects(owner: &impl Selecting, object: &impl Object) -> bool {
    let labels = object.metadata().labels.as_ref();
    matches(owner.selector(), labels)
}

fn matches(selector: &v1::LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let is_empty = selector
        .match_labels
        .as_ref()
        .is_none_or(BTreeMap::is_empty)
        && selector
            .match_expressions
            .as_ref()
            .is_none_or(Vec::is_empty);
    let nothing = BTreeMap::new();
    !is_empty
        && LabelSelector::from_object(selector)
            .is_ok_and(|selector| selector.matches(labels.unwrap_or(&nothing)))
}

/// The owner that controls an object, whatever it is.
pub(crate) fn any_controller(object: &impl Object) -> Option<&OwnerReference> {
    let owners = object
        .metadata()
        .owner_references
        .as_deref()
        .unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// The owner that controls an object, if it is of this kind.
pub(crate) fn controller<'a>(object: &'a impl Object, kind: &str) -> Option<&'a OwnerReference> {
    any_controller(object).filter(|owner| owner.kind == kind)
}

/// The reference that makes `owner` the controller of something.
pub(crate) fn owner<K: Object>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: owner.object_name().name,
        uid: owner.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Makes `owner` the controller, unless there is one by now.
pub(crate) fn adopt(metadata: &mut ObjectMeta, owner: &OwnerReference) {
    let owners = metadata.owner_references.get_or_insert_default();
    if !owners.iter().any(|owner| owner.controller == Some(true)) {
        owners.push(owner.clone());
    }
}

/// Takes an owner off.
pub(crate) fn release(metadata: &mut ObjectMeta, uid: &str) {
    if let Some(owners) = &mut metadata.owner_references {
        owners.retain(|owner| owner.uid != uid);
        if owners.is_empty() {
            metadata.owner_references = None;
        }
    }
}
