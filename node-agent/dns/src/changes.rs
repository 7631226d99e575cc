//! What the control plane wants otherwise than before.

use std::{collections::BTreeMap, mem};

use fairlead_proto::node::{DataplaneState, Delta, DnsKey, DnsName, DnsNamespace, Parameters};

use crate::check::{self, Invalid};

/// Changes of names. Later ones can be merged into earlier ones that were not applied yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Whether these are all there is to be: what is not named goes.
    pub is_whole: bool,
    /// Another set of parameters.
    pub parameters: Option<Parameters>,
    /// Namespaces by VPC and name; `false` for one that goes.
    pub namespaces: BTreeMap<(u32, String), bool>,
    /// Names by VPC, namespace and name; `None` for one that goes.
    pub names: BTreeMap<(u32, String, String), Option<DnsName>>,
}

impl Changes {
    /// Takes the names out of a whole state. Of two with one key the later counts.
    pub fn whole(state: &mut DataplaneState) -> Self {
        let mut changes = Self {
            is_whole: true,
            parameters: state.parameters.clone(),
            ..Self::default()
        };
        changes.put_namespaces(mem::take(&mut state.dns_namespaces), true);
        changes.put_names(mem::take(&mut state.dns_names));
        changes
    }

    /// Takes the names out of a delta.
    pub fn take_from(delta: &mut Delta) -> Self {
        let mut changes = Self::default();
        changes.put_namespaces(mem::take(&mut delta.removed_dns_namespaces), false);
        changes.put_namespaces(mem::take(&mut delta.dns_namespaces), true);
        changes.remove_names(mem::take(&mut delta.removed_dns_names));
        changes.put_names(mem::take(&mut delta.dns_names));
        changes
    }

    /// Whether nothing is to be otherwise.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what came later.
    pub fn merge(&mut self, later: Self) {
        if later.is_whole {
            *self = later;
            return;
        }
        if later.parameters.is_some() {
            self.parameters = later.parameters;
        }
        self.namespaces.extend(later.namespaces);
        self.names.extend(later.names);
    }

    /// Whether all of it can be answered from.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn check(&self) -> Result<(), Invalid> {
        if let Some(parameters) = &self.parameters {
            check::settings(parameters)?;
        }
        for ((vpc, name), is_there) in &self.namespaces {
            if *is_there {
                check::namespace(&DnsNamespace {
                    vpc: *vpc,
                    name: name.clone(),
                })?;
            }
        }
        for name in self.names.values().flatten() {
            check::service(name)?;
        }
        Ok(())
    }

    /// Forgets what is gone: of a whole state, nothing but what there is counts.
    pub(crate) fn forget_removed(&mut self) {
        self.namespaces.retain(|_, is_there| *is_there);
        self.names.retain(|_, name| name.is_some());
    }

    pub(crate) fn put_namespaces(&mut self, namespaces: Vec<DnsNamespace>, is_there: bool) {
        let namespaces = namespaces.into_iter();
        self.namespaces
            .extend(namespaces.map(|one| ((one.vpc, one.name), is_there)));
    }

    pub(crate) fn put_names(&mut self, names: Vec<DnsName>) {
        self.names.extend(names.into_iter().map(|one| {
            let key = (one.vpc, one.namespace.clone(), one.name.clone());
            (key, Some(one))
        }));
    }

    pub(crate) fn remove_names(&mut self, keys: Vec<DnsKey>) {
        let keys = keys.into_iter();
        self.names
            .extend(keys.map(|key| ((key.vpc, key.namespace, key.name), None)));
    }
}
