//! The names of the cluster, a zone for each VPC.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use crate::{
    changes::Changes,
    check::{self, ClusterDns, Invalid, Service, Settings},
};

/// The names of all VPCs.
#[derive(Debug, Default)]
pub struct Zones {
    /// `None` until the control plane has said how names are resolved.
    pub(crate) settings: Option<Settings>,
    /// Counts the changes: the serial number of the zones.
    pub(crate) serial: u32,
    zones: BTreeMap<u32, Zone>,
}

/// The names of one VPC.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    namespaces: BTreeSet<String>,
    /// By namespace and name.
    services: HashMap<String, BTreeMap<String, Service>>,
    /// The names of an address.
    reverse: HashMap<IpAddr, BTreeSet<Owner>>,
}

/// Whose name an address has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    /// The label of an endpoint of a headless Service.
    pub(crate) endpoint: Option<String>,
    pub(crate) service: String,
    pub(crate) namespace: String,
}

impl Zones {
    /// Takes changes in, all of them or none.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn apply(&mut self, changes: &Changes) -> Result<(), Invalid> {
        let settings = match &changes.parameters {
            Some(parameters) => check::settings(parameters)?,
            None => None,
        };
        for ((vpc, name), is_there) in &changes.namespaces {
            if *is_there {
                let (vpc, name) = (*vpc, name.clone());
                check::namespace(&fairlead_proto::node::DnsNamespace { vpc, name })?;
            }
        }
        let mut services = Vec::with_capacity(changes.names.len());
        for (key, name) in &changes.names {
            services.push((key, name.as_ref().map(check::service).transpose()?));
        }
        // Nothing can be refused from here on.
        if changes.is_whole {
            self.zones.clear();
        }
        if changes.parameters.is_some() {
            self.settings = settings;
        }
        for ((vpc, name), is_there) in &changes.namespaces {
            let zone = self.zones.entry(*vpc).or_default();
            if *is_there {
                zone.namespaces.insert(name.clone());
            } else {
                zone.namespaces.remove(name);
            }
        }
        for ((vpc, namespace, name), service) in services {
            let zone = self.zones.entry(*vpc).or_default();
            zone.set(namespace, name, service);
        }
        self.zones
            .retain(|_, zone| !(zone.namespaces.is_empty() && zone.services.is_empty()));
        self.serial = self.serial.wrapping_add(1);
        Ok(())
    }

    /// How names of the cluster are resolved, if the control plane has said so.
    pub fn cluster(&self) -> Option<&ClusterDns> {
        self.settings.as_ref().map(|settings| &settings.cluster)
    }

    /// How many namespaces and Services each VPC has names of, by its id.
    pub fn sizes(&self) -> impl Iterator<Item = (u32, usize, usize)> {
        self.zones.iter().map(|(vpc, zone)| {
            let services = zone.services.values().map(BTreeMap::len).sum();
            (*vpc, zone.namespaces.len(), services)
        })
    }

    pub(crate) fn zone(&self, vpc: u32) -> Option<&Zone> {
        self.zones.get(&vpc)
    }
}

impl Zone {
    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name) || self.services.contains_key(name)
    }

    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(namespace)?.get(name)
    }

    pub(crate) fn owners(&self, address: IpAddr) -> impl Iterator<Item = &Owner> {
        self.reverse.get(&address).into_iter().flatten()
    }

    fn set(&mut self, namespace: &str, name: &str, service: Option<Service>) {
        let known = self.services.get_mut(namespace);
        if let Some(before) = known.and_then(|services| services.remove(name)) {
            for (address, owner) in owners(&before, namespace, name) {
                if let Some(held) = self.reverse.get_mut(&address) {
                    held.remove(&owner);
                    if held.is_empty() {
                        self.reverse.remove(&address);
                    }
                }
            }
        }
        if let Some(service) = service {
            for (address, owner) in owners(&service, namespace, name) {
                self.reverse.entry(address).or_default().insert(owner);
            }
            let services = self.services.entry(namespace.to_owned()).or_default();
            services.insert(name.to_owned(), service);
        } else if self.services.get(namespace).is_some_and(BTreeMap::is_empty) {
            self.services.remove(namespace);
        }
    }
}

fn owners(service: &Service, namespace: &str, name: &str) -> Vec<(IpAddr, Owner)> {
    let owner = |endpoint: Option<&String>| Owner {
        endpoint: endpoint.cloned(),
        service: name.to_owned(),
        namespace: namespace.to_owned(),
    };
    match service {
        Service::Cluster { addresses, .. } => {
            let addresses = addresses.iter();
            addresses.map(|address| (*address, owner(None))).collect()
        }
        Service::Headless(groups) => {
            let endpoints = groups.iter().flat_map(|group| &group.endpoints);
            endpoints
                .map(|endpoint| (endpoint.address, owner(Some(&endpoint.label))))
                .collect()
        }
        Service::External(_) => Vec::new(),
    }
}
