use fairlead_api::{
    resource::Resource,
    status::{OBJECT_MODIFIED, Status},
};
use fairlead_store::Key;

/// One object, by name; or where one is to be.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) resource: &'static Resource,
    /// `None` for cluster-scoped resources.
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
}

impl Subject<'_> {
    /// Where the store keeps it.
    pub(crate) fn key(&self) -> Key {
        Key::object(
            self.resource.group,
            self.resource.plural,
            self.namespace,
            self.name,
        )
    }

    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(self.resource, self.name)
    }

    /// 409: somebody else wrote it first.
    pub(crate) fn modified(&self) -> Status {
        Status::conflict(self.resource, self.name, OBJECT_MODIFIED)
    }

    /// Whether this is an object of the core group's `kind`.
    pub(crate) fn is_core(&self, kind: &str) -> bool {
        self.resource.group.is_empty() && self.resource.kind == kind
    }
}
