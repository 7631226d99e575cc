//! The addresses of this node's pods: which pod holds which addresses of the node's ranges, one of
//! each family the node has.
//!
//! A file in the state directory is the record, replaced atomically before an address is handed
//! out, so that an address is never given twice, whatever the agent dies of. Knows nothing of
//! interfaces.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
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
    /// A node has one range of each family at most.
    #[error("pod ranges {first} and {second} are of one family")]
    SameFamily {
        /// One.
        first: IpNetwork,
        /// The other.
        second: IpNetwork,
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
#[serde(from = "stored::Record")]
struct Record {
    /// The primary family's first.
    pools: Vec<Pool>,
    /// By the pod's uid.
    leases: BTreeMap<String, Lease>,
}

/// Where addresses of one family come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pool {
    range: IpNetwork,
    /// The address given last. The search for the next starts behind it, so that an address rests
    /// as long as possible before another pod gets it: peers may still hold state about it.
    last: Option<IpAddr>,
}

/// What a pod holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its addresses, the primary family's first.
    pub addresses: Vec<IpAddr>,
    /// Where its network namespace is pinned.
    pub namespace: PathBuf,
}

/// Records as files hold them, also those of agents that knew IPv4 only.
mod stored {
    use super::{BTreeMap, Deserialize, IpAddr, IpNetwork, Lease, PathBuf, Pool};

    #[derive(Deserialize)]
    #[serde(untagged)]
    pub(super) enum Record {
        Pools {
            pools: Vec<Pool>,
            leases: BTreeMap<String, Lease>,
        },
        OneRange {
            range: Option<IpNetwork>,
            last: Option<IpAddr>,
            leases: BTreeMap<String, OneAddress>,
        },
    }

    #[derive(Deserialize)]
    pub(super) struct OneAddress {
        address: IpAddr,
        namespace: PathBuf,
    }

    impl From<Record> for super::Record {
        fn from(record: Record) -> Self {
            match record {
                Record::Pools { pools, leases } => Self { pools, leases },
                Record::OneRange {
                    range,
                    last,
                    leases,
                } => Self {
                    pools: range
                        .map(|range| Pool { range, last })
                        .into_iter()
                        .collect(),
                    leases: leases
                        .into_iter()
                        .map(|(uid, OneAddress { address, namespace })| {
                            let addresses = vec![address];
                            (
                                uid,
                                Lease {
                                    addresses,
                                    namespace,
                                },
                            )
                        })
                        .collect(),
                },
            }
        }
    }
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

    /// The ranges new addresses come from, one a family.
    pub fn ranges(&self) -> Vec<IpNetwork> {
        self.record.pools.iter().map(|pool| pool.range).collect()
    }

    /// Every pod that holds addresses.
    pub fn leases(&self) -> impl Iterator<Item = (&str, &Lease)> {
        self.record
            .leases
            .iter()
            .map(|(uid, lease)| (uid.as_str(), lease))
    }

    /// The addresses that `uid` holds.
    pub fn addresses(&self, uid: &str) -> Option<&[IpAddr]> {
        let lease = self.record.leases.get(uid)?;
        Some(&lease.addresses)
    }

    /// Gives new addresses from `ranges`, one of each. Pods keep those they hold.
    pub fn set_ranges(&mut self, ranges: &[IpNetwork]) -> Result<(), Error> {
        for (index, second) in ranges.iter().enumerate() {
            let is_same = |first: &&IpNetwork| first.is_ipv4() == second.is_ipv4();
            if let Some(first) = ranges[..index].iter().find(is_same) {
                let (first, second) = (*first, *second);
                return Err(Error::SameFamily { first, second });
            }
        }
        self.change(|record| {
            let held = std::mem::take(&mut record.pools);
            let last = |range: &IpNetwork| held.iter().find(|pool| pool.range == *range)?.last;
            let pools = ranges.iter().map(|range| Pool {
                range: *range,
                last: last(range),
            });
            record.pools = pools.collect();
        })
    }

    /// The addresses of `uid`, whose namespace is pinned at `namespace`: those it holds, or the
    /// next free one of each range.
    pub fn allocate(&mut self, uid: &str, namespace: &Path) -> Result<Vec<IpAddr>, Error> {
        let held = self.addresses(uid).map(<[IpAddr]>::to_vec);
        let given = match held {
            Some(_) => Vec::new(),
            None => self.next_free()?,
        };
        let addresses = held.unwrap_or_else(|| given.clone());
        self.change(|record| {
            for (pool, address) in record.pools.iter_mut().zip(&given) {
                pool.last = Some(*address);
            }
            let lease = Lease {
                addresses: addresses.clone(),
                namespace: namespace.to_owned(),
            };
            record.leases.insert(uid.to_owned(), lease);
        })?;
        Ok(addresses)
    }

    /// Takes back the addresses of `uid`, if it holds any.
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

    /// A free address of each range.
    fn next_free(&self) -> Result<Vec<IpAddr>, Error> {
        if self.record.pools.is_empty() {
            return Err(Error::NoRange);
        }
        let leases = self.record.leases.values();
        let held: BTreeSet<IpAddr> = leases.flat_map(|lease| &lease.addresses).copied().collect();
        self.record
            .pools
            .iter()
            .map(|pool| {
                pool.next_free(&held)
                    .ok_or(Error::Exhausted { range: pool.range })
            })
            .collect()
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

impl Pool {
    /// The first address behind the last one that is not `held`, going round.
    fn next_free(&self, held: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        // The first address of a subnet names the subnet itself, or any of its routers (RFC 4291
        // §2.6.1); the last of an IPv4 one names everyone in it.
        let first = number(self.range.network()) + 1;
        let end = match self.range {
            IpNetwork::V4(range) => number(range.broadcast().into()),
            IpNetwork::V6(range) => number(range.broadcast().into()).saturating_add(1),
        };
        let start = self
            .last
            .map(|last| number(last).saturating_add(1))
            .filter(|start| (first..end).contains(start))
            .unwrap_or(first);
        (start..end)
            .chain(first..start)
            .map(|candidate| self.address(candidate))
            .find(|candidate| !held.contains(candidate))
    }

    fn address(&self, number: u128) -> IpAddr {
        if self.range.is_ipv4() {
            let number = u32::try_from(number).expect("a number of an IPv4 range has 32 bits");
            IpAddr::V4(number.into())
        } else {
            IpAddr::V6(number.into())
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
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

    fn ipam(directory: &tempfile::TempDir, ranges: &[&str]) -> Ipam {
        let mut ipam = Ipam::open(directory.path()).unwrap();
        let ranges: Vec<_> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        ipam.set_ranges(&ranges).unwrap();
        ipam
    }

    /// What a pod is given, or why nothing.
    fn give(ipam: &mut Ipam, uid: &str) -> String {
        match ipam.allocate(uid, Path::new("/run/netns/pod")) {
            Ok(addresses) => {
                let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                texts.join(" ")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn freed_address_rests_until_the_range_has_gone_round() {
        for (range, network) in [
            ("10.244.1.0/29", "10.244.1."),
            ("2001:db8::/125", "2001:db8::"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let mut ipam = ipam(&directory, &[range]);
            for (uid, wanted) in [("pod-1", 1), ("pod-2", 2), ("pod-3", 3)] {
                assert_eq!(give(&mut ipam, uid), format!("{network}{wanted}"));
            }
            ipam.release("pod-1").unwrap();
            for (uid, wanted) in [("a", 4), ("b", 5), ("c", 6)] {
                assert_eq!(give(&mut ipam, uid), format!("{network}{wanted}"));
            }
            // IPv4's last address is everybody's.
            if range.contains(':') {
                assert_eq!(give(&mut ipam, "d"), "2001:db8::7");
            }
            assert_eq!(give(&mut ipam, "e"), format!("{network}1"));
        }
    }

    #[test]
    fn pod_gets_an_address_of_each_family_or_none_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let mut ipam = ipam(&directory, &["10.244.1.0/30", "2001:db8:a:1::/64"]);
        for (uid, given) in [
            ("a", "10.244.1.1 2001:db8:a:1::1"),
            ("b", "10.244.1.2 2001:db8:a:1::2"),
            ("c", "pod range 10.244.1.0/30 has no free address"),
        ] {
            assert_eq!(give(&mut ipam, uid), given);
        }
        assert_eq!(ipam.addresses("c"), None);
        ipam.release("a").unwrap();
        assert_eq!(give(&mut ipam, "c"), "10.244.1.1 2001:db8:a:1::3");
    }

    #[test]
    fn pod_keeps_what_it_has_when_the_node_gets_a_second_range() {
        let directory = tempfile::tempdir().unwrap();
        let mut ipam = ipam(&directory, &["10.244.1.0/24"]);
        assert_eq!(give(&mut ipam, "a"), "10.244.1.1");
        let both = ["10.244.1.0/24", "2001:db8::/64"].map(|range| range.parse().unwrap());
        ipam.set_ranges(&both).unwrap();
        assert_eq!(give(&mut ipam, "a"), "10.244.1.1");
        assert_eq!(give(&mut ipam, "b"), "10.244.1.2 2001:db8::1");
    }

    #[test]
    fn two_ranges_of_one_family_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut ipam = ipam(&directory, &["10.244.1.0/24"]);
        let same = ["10.244.1.0/24", "10.244.2.0/24"].map(|range| range.parse().unwrap());
        let refused = ipam.set_ranges(&same);
        assert!(matches!(refused, Err(Error::SameFamily { .. })));
        assert_eq!(ipam.ranges().len(), 1);
    }

    #[test]
    fn reopened_record_holds_the_same_leases() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = ipam(&directory, &["10.244.1.0/24", "2001:db8::/64"]);
        let given = give(&mut first, "a");
        drop(first);
        let mut again = Ipam::open(directory.path()).unwrap();
        assert_eq!(give(&mut again, "a"), given);
        assert_eq!(again.leases().count(), 1);
        assert_eq!(give(&mut again, "b"), "10.244.1.2 2001:db8::2");
    }

    #[test]
    fn record_of_one_address_a_pod_is_read_and_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses.json");
        let old = r#"{"range": "10.244.1.0/24", "last": "10.244.1.4", "leases": {
            "a": {"address": "10.244.1.2", "namespace": "/run/netns/a"}}}"#;
        fs::write(&path, old).unwrap();
        let mut ipam = Ipam::open(directory.path()).unwrap();
        assert_eq!(give(&mut ipam, "a"), "10.244.1.2");
        assert_eq!(give(&mut ipam, "b"), "10.244.1.5");
        drop(ipam);
        let again = Ipam::open(directory.path()).unwrap();
        assert_eq!(again.leases().count(), 2);
        assert_eq!(again.ranges(), ["10.244.1.0/24".parse().unwrap()]);
    }

    #[test]
    fn node_without_a_range_gives_no_address() {
        let directory = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(directory.path()).unwrap();
        assert_eq!(give(&mut ipam, "a"), "node has no pod range yet");
    }

    #[test]
    fn damaged_record_is_an_error_and_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses.json");
        for damaged in ["{\"leases\":", "{}", "[]"] {
            fs::write(&path, damaged).unwrap();
            let opened = Ipam::open(directory.path());
            assert!(matches!(opened, Err(Error::Read { .. })), "{damaged}");
            assert_eq!(fs::read(&path).unwrap(), damaged.as_bytes());
        }
    }
}
