//! The addresses of this node's pods: which pod holds which address of the node's range.
//!
//! A file in the state directory is the record, replaced atomically before an address is handed
//! out, so that an address is never given twice, whatever the agent dies of. Knows nothing of
//! interfaces.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// Why an address could not be given or taken back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control plane has not given this node a range yet.
    #[error("node has no pod range yet")]
    NoRange,
    /// Every address of the range is held by a pod.
    #[error("pod range {range} has no free address")]
    Exhausted {
        /// The node's range.
        range: IpNetwork,
    },
    /// Addresses of this family are not given out.
    #[error("pod range {range} is not IPv4")]
    Family {
        /// The node's range.
        range: IpNetwork,
    },
    /// The record cannot be read.
    #[error("read address record {}", path.display())]
    Read {
        /// The record's file.
        path: PathBuf,
        /// What the filesystem or the parser said.
        #[source]
        source: io::Error,
    },
    /// The record cannot be written; nothing has changed.
    #[error("write address record {}", path.display())]
    Write {
        /// The record's file.
        path: PathBuf,
        /// What the filesystem said.
        #[source]
        source: io::Error,
    },
}

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    range: Option<IpNetwork>,
    /// The address given last. The search for the next starts behind it, so that an address rests
    /// as long as possible before another pod gets it: peers may still hold state about it.
    last: Option<Ipv4Addr>,
    /// By the pod's uid.
    leases: BTreeMap<String, Lease>,
}

/// What a pod holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its address.
    pub address: Ipv4Addr,
    /// Where its network namespace is pinned.
    pub namespace: PathBuf,
}

/// The addresses of one node. See the [module](self).
#[derive(Debug)]
pub struct Ipam {
    path: PathBuf,
    record: Record,
}

impl Ipam {
    /// Reads the record in `state_dir`, or starts an empty one.
    pub fn open(state_dir: &Path) -> Result<Self, Error> {
        let path = state_dir.join("addresses.json");
        let record = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::Read {
                path: path.clone(),
                source: e.into(),
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(source) => return Err(Error::Read { path, source }),
        };
        Ok(Self { path, record })
    }

    /// The range new addresses come from.
    pub fn range(&self) -> Option<IpNetwork> {
        self.record.range
    }

    /// Every pod that holds an address.
    pub fn leases(&self) -> impl Iterator<Item = (&str, &Lease)> {
        self.record
            .leases
            .iter()
            .map(|(uid, lease)| (uid.as_str(), lease))
    }

    /// The address that `uid` holds.
    pub fn address(&self, uid: &str) -> Option<IpAddr> {
        self.record
            .leases
            .get(uid)
            .map(|lease| IpAddr::V4(lease.address))
    }

    /// Gives new addresses from `range`. Pods keep those they hold.
    pub fn set_range(&mut self, range: IpNetwork) -> Result<(), Error> {
        if !range.is_ipv4() {
            return Err(Error::Family { range });
        }
        self.change(|record| record.range = Some(range))
    }

    /// The address of `uid`, whose namespace is pinned at `namespace`: the one it holds, or the
    /// next free one.
    pub fn allocate(&mut self, uid: &str, namespace: &Path) -> Result<IpAddr, Error> {
        let held = self.record.leases.get(uid).map(|lease| lease.address);
        let address = match held {
            Some(address) => address,
            None => self.next_free()?,
        };
        self.change(|record| {
            if held.is_none() {
                record.last = Some(address);
            }
            let lease = Lease {
                address,
                namespace: namespace.to_owned(),
            };
            record.leases.insert(uid.to_owned(), lease);
        })?;
        Ok(IpAddr::V4(address))
    }

    /// Takes back the address of `uid`, if it holds one.
    pub fn release(&mut self, uid: &str) -> Result<(), Error> {
        if !self.record.leases.contains_key(uid) {
            return Ok(());
        }
        self.change(|record| {
            record.leases.remove(uid);
        })
    }

    /// Deletes the record: no pod holds an address any more.
    pub fn delete(self) -> Result<(), Error> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Write {
                path: self.path,
                source,
            }),
            _ => Ok(()),
        }
    }

    fn next_free(&self) -> Result<Ipv4Addr, Error> {
        let range = self.record.range.ok_or(Error::NoRange)?;
        let IpNetwork::V4(network) = range else {
            return Err(Error::Family { range });
        };
        // The first and the last address of a subnet name the subnet itself and everyone in it.
        let first = u32::from(network.network()) + 1;
        let end = u32::from(network.broadcast());
        let start = self
            .record
            .last
            .map(|last| u32::from(last).wrapping_add(1))
            .filter(|start| (first..end).contains(start))
            .unwrap_or(first);
        let held: BTreeSet<u32> = self
            .record
            .leases
            .values()
            .map(|l| u32::from(l.address))
            .collect();
        (start..end)
            .chain(first..start)
            .find(|candidate| !held.contains(candidate))
            .map(Ipv4Addr::from)
            .ok_or(Error::Exhausted { range })
    }

    /// Changes the record, in the file first.
    fn change(&mut self, edit: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let mut changed = self.record.clone();
        edit(&mut changed);
        if changed == self.record {
            return Ok(());
        }
        write_atomically(&self.path, &changed).map_err(|source| Error::Write {
            path: self.path.clone(),
            source,
        })?;
        self.record = changed;
        Ok(())
    }
}

fn write_atomically(path: &Path, record: &Record) -> io::Result<()> {
    let directory = path
        .parent()
        .expect("the record's path was joined to a directory");
    fs::create_dir_all(directory)?;
    let fresh = path.with_extension("json.new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(record)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(directory: &tempfile::TempDir, range: &str) -> Ipam {
        let mut ipam = Ipam::open(directory.path()).unwrap();
        ipam.set_range(range.parse().unwrap()).unwrap();
        ipam
    }

    #[test]
    fn freed_address_rests_until_the_range_has_gone_round() {
        let directory = tempfile::tempdir().unwrap();
        let mut ipam = ipam(&directory, "10.244.1.0/29");
        let given: Vec<String> = (1..=3)
            .map(|i| {
                ipam.allocate(&format!("pod-{i}"), Path::new("/run/netns/pod"))
                    .unwrap()
                    .to_string()
            })
            .collect();
        assert_eq!(given, ["10.244.1.1", "10.244.1.2", "10.244.1.3"]);
        ipam.release("pod-1").unwrap();
        for (uid, wanted) in [("a", 4), ("b", 5), ("c", 6), ("d", 1)] {
            let address = ipam
                .allocate(uid, Path::new("/run/netns/pod"))
                .unwrap()
                .to_string();
            assert_eq!(address, format!("10.244.1.{wanted}"), "{uid}");
        }
    }

    #[test]
    fn full_range_is_refused_and_served_again_after_a_release() {
        let directory = tempfile::tempdir().unwrap();
        let mut ipam = ipam(&directory, "10.244.1.0/30");
        ipam.allocate("a", Path::new("/run/netns/pod")).unwrap();
        ipam.allocate("b", Path::new("/run/netns/pod")).unwrap();
        assert!(matches!(
            ipam.allocate("c", Path::new("/run/netns/pod")),
            Err(Error::Exhausted { .. })
        ));
        ipam.release("a").unwrap();
        assert_eq!(
            ipam.allocate("c", Path::new("/run/netns/pod"))
                .unwrap()
                .to_string(),
            "10.244.1.1"
        );
    }

    #[test]
    fn reopened_record_holds_the_same_leases() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = ipam(&directory, "10.244.1.0/24");
        let address = first.allocate("a", Path::new("/run/netns/pod")).unwrap();
        drop(first);
        let mut again = Ipam::open(directory.path()).unwrap();
        assert_eq!(
            again.allocate("a", Path::new("/run/netns/pod")).unwrap(),
            address
        );
        assert_ne!(
            again.allocate("b", Path::new("/run/netns/pod")).unwrap(),
            address
        );
    }

    #[test]
    fn asking_twice_gives_the_same_address() {
        let directory = tempfile::tempdir().unwrap();
        let mut ipam = ipam(&directory, "10.244.1.0/24");
        assert_eq!(
            ipam.allocate("a", Path::new("/run/netns/pod")).unwrap(),
            ipam.allocate("a", Path::new("/run/netns/pod")).unwrap()
        );
        assert_eq!(ipam.leases().count(), 1);
    }

    #[test]
    fn node_without_a_range_gives_no_address() {
        let directory = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(directory.path()).unwrap();
        assert!(matches!(
            ipam.allocate("a", Path::new("/run/netns/pod")),
            Err(Error::NoRange)
        ));
    }

    #[test]
    fn damaged_record_is_an_error_and_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses.json");
        fs::write(&path, b"{\"leases\":").unwrap();
        assert!(matches!(
            Ipam::open(directory.path()),
            Err(Error::Read { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"{\"leases\":");
    }
}
