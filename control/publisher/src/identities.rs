//! The numbers that services, backends and nodes go by on the wire and in the maps.
//!
//! A number is written to the store before it is published and stays with its owner, so that every
//! leader and every node means the same by it. A freed number is given out again only after all
//! others were: a flow or a packet that still names it meets nobody, not somebody else.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use fairlead_api::{Index, Revision, RevisionedBytes};
use fairlead_objects::ObjectName;
use fairlead_store::{CommitError, Expect, Key, Op, Snapshot, Store, Transaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

const SERVICES: &str = "/registry/net.fairlead.io/dataplaneids/";
const NODES: &str = "/registry/net.fairlead.io/dataplanenodes/";
const CURSORS: &str = "/registry/net.fairlead.io/dataplanecursors/cluster";

/// The largest number of each kind; what a node's tables hold.
const SERVICE_MAX: u32 = (1 << 16) - 1;
const BACKEND_MAX: u32 = (1 << 18) - 1;
const NODE_MAX: u32 = (1 << 12) - 1;

/// How many records one transaction writes at most.
const BATCH_MAX: usize = 256;

/// One port of a Service in one family: its name and protocol. A client of one family is answered
/// by a backend of the same, so each has a table of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortKey {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) is_ipv6: bool,
}

impl PortKey {
    fn text(&self) -> String {
        let family = if self.is_ipv6 { "/IPv6" } else { "" };
        format!("{}/{}{family}", self.name, self.protocol)
    }

    fn backend(&self, address: IpAddr, port: u16) -> String {
        format!(
            "{} {}",
            self.text(),
            std::net::SocketAddr::new(address, port)
        )
    }
}

/// What there is to be numbered: the ports of each Service and the backends of each port; the
/// nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) services: BTreeMap<ObjectName, BTreeMap<PortKey, BTreeSet<(IpAddr, u16)>>>,
    pub(crate) nodes: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ServiceRecord {
    ports: BTreeMap<String, u32>,
    backends: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct NodeRecord {
    id: u32,
}

/// The number each kind gave out last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursors {
    service: u32,
    backend: u32,
    node: u32,
}

/// All numbers given out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identities {
    services: BTreeMap<ObjectName, ServiceRecord>,
    nodes: BTreeMap<String, NodeRecord>,
    cursors: Cursors,
    /// When the cursors were last written: every write asks that nobody else did since.
    written: Option<Revision>,
}

/// Why numbers could not be given out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// They could not be written, and so must not be used.
    #[error("ids of services and backends not written")]
    Commit(#[source] CommitError),
}

impl Identities {
    /// As the store has them. A record that cannot be read counts as absent: its owner gets new
    /// numbers.
    pub(crate) fn load(snapshot: &Snapshot) -> Self {
        let services = snapshot.range(SERVICES, None).filter_map(|entry| {
            let (namespace, name) = entry.key.as_str().strip_prefix(SERVICES)?.split_once('/')?;
            Some((ObjectName::new(namespace, name), decode(&entry.value)?))
        });
        let nodes = snapshot
            .range(NODES, None)
            .filter_map(|entry| Some((entry.key.name().to_owned(), decode(&entry.value)?)));
        let entry = snapshot.get(&Key::raw(CURSORS));
        let cursors = entry.and_then(|entry| decode(&entry.value));
        Self {
            written: entry.map(|entry| entry.revision),
            services: services.collect(),
            nodes: nodes.collect(),
            cursors: cursors.unwrap_or_default(),
        }
    }

    /// The number of a port of a Service.
    pub(crate) fn service(&self, name: &ObjectName, port: &PortKey) -> Option<u32> {
        self.services.get(name)?.ports.get(&port.text()).copied()
    }

    /// The number of a backend of such a port.
    pub(crate) fn backend(
        &self,
        name: &ObjectName,
        port: &PortKey,
        address: IpAddr,
        number: u16,
    ) -> Option<u32> {
        self.services
            .get(name)?
            .backends
            .get(&port.backend(address, number))
            .copied()
    }

    /// How many numbers a Service has, those of its ports and of their backends.
    pub(crate) fn count(&self, name: &ObjectName) -> usize {
        let record = self.services.get(name);
        record.map_or(0, |record| record.ports.len() + record.backends.len())
    }

    /// The number of a node.
    pub(crate) fn node(&self, name: &str) -> Option<u32> {
        self.nodes.get(name).map(|record| record.id)
    }

    /// The numbers when everything `wanted`, and nothing else, has one. What finds no free number
    /// stays without.
    pub(crate) fn assign(&self, wanted: &Wanted) -> Self {
        let mut next = Self {
            cursors: self.cursors,
            written: self.written,
            ..Self::default()
        };
        let records = || self.services.values();
        let mut services: HashSet<u32> = records()
            .flat_map(|record| record.ports.values())
            .copied()
            .collect();
        let mut backends: HashSet<u32> = records()
            .flat_map(|record| record.backends.values())
            .copied()
            .collect();
        let mut nodes: HashSet<u32> = self.nodes.values().map(|record| record.id).collect();
        let cursors = &mut next.cursors;
        for (name, ports) in &wanted.services {
            let old = self.services.get(name).cloned().unwrap_or_default();
            let mut record = ServiceRecord::default();
            for (port, endpoints) in ports {
                let text = port.text();
                let known = old.ports.get(&text).copied();
                let id = known.or_else(|| draw(&mut cursors.service, &mut services, SERVICE_MAX));
                record.ports.extend(id.map(|id| (text, id)));
                for (address, number) in endpoints {
                    let text = port.backend(*address, *number);
                    let known = old.backends.get(&text).copied();
                    let id =
                        known.or_else(|| draw(&mut cursors.backend, &mut backends, BACKEND_MAX));
                    record.backends.extend(id.map(|id| (text, id)));
                }
            }
            next.services.insert(name.clone(), record);
        }
        for name in &wanted.nodes {
            let known = self.nodes.get(name).map(|record| record.id);
            if let Some(id) = known.or_else(|| draw(&mut cursors.node, &mut nodes, NODE_MAX)) {
                next.nodes.insert(name.clone(), NodeRecord { id });
            }
        }
        next
    }

    /// The records that differ from `previous`.
    fn changes(&self, previous: &Self) -> Vec<Op> {
        let mut ops = Vec::new();
        let service_key = |name: &ObjectName| Key::raw(format!("{SERVICES}{name}"));
        let node_key = |name: &String| Key::raw(format!("{NODES}{name}"));
        for (name, record) in &self.services {
            if previous.services.get(name) != Some(record) {
                ops.push(put(service_key(name), Expect::Any, record));
            }
        }
        for (name, record) in &self.nodes {
            if previous.nodes.get(name) != Some(record) {
                ops.push(put(node_key(name), Expect::Any, record));
            }
        }
        let services = previous
            .services
            .keys()
            .filter(|name| !self.services.contains_key(*name));
        let nodes = previous
            .nodes
            .keys()
            .filter(|name| !self.nodes.contains_key(*name));
        let gone = services.map(service_key).chain(nodes.map(node_key));
        ops.extend(gone.map(|key| Op::Delete {
            key,
            expect: Expect::Any,
        }));
        ops
    }

    /// Gives out what is wanted and writes it; nothing is used before it is written.
    ///
    /// # Errors
    /// When it could not be written, also because another member has given out numbers meanwhile:
    /// one that leads no more, or not yet again, cannot give the same number twice. Then the
    /// numbers are to be loaded anew.
    pub(crate) async fn ensure(&mut self, wanted: &Wanted, store: &Store) -> Result<(), Error> {
        let mut next = self.assign(wanted);
        let changes = next.changes(self);
        for batch in changes.chunks(BATCH_MAX) {
            // The cursor first: a number is skipped rather than given out twice.
            let unmoved = next.written.map_or(Expect::Absent, Expect::Revision);
            let mut ops = vec![put(Key::raw(CURSORS), unmoved, &next.cursors)];
            ops.extend(batch.iter().cloned());
            let transaction = Transaction {
                checks: Vec::new(),
                ops,
            };
            let committed = store.commit(transaction).await.map_err(Error::Commit)?;
            let cursors = committed.entries.into_iter().next().flatten();
            next.written = cursors.map(|entry| entry.revision);
        }
        *self = next;
        Ok(())
    }
}

/// The first free number after the cursor, going round; 0 is never one.
fn draw(cursor: &mut u32, taken: &mut HashSet<u32>, max: u32) -> Option<u32> {
    if taken.len() >= max as usize {
        return None;
    }
    loop {
        *cursor = if *cursor >= max { 1 } else { *cursor + 1 };
        if taken.insert(*cursor) {
            return Some(*cursor);
        }
    }
}

fn put(key: Key, expect: Expect, record: &impl Serialize) -> Op {
    let json = serde_json::to_string(record).expect("maps of numbers always serialise");
    let value = RevisionedBytes {
        head: b"{\"resourceVersion\":\"".to_vec().into(),
        tail: format!("\",{}", &json[1..]).into_bytes().into(),
    };
    Op::Put {
        key,
        expect,
        value,
        index: Index::default().into(),
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> PortKey {
        PortKey {
            name: "http".to_owned(),
            protocol: "TCP".to_owned(),
            is_ipv6: false,
        }
    }

    fn wanted(services: &[(&str, &[u8])]) -> Wanted {
        let services = services.iter().map(|(name, hosts)| {
            let endpoints = hosts
                .iter()
                .map(|host| (IpAddr::from([10, 244, 0, *host]), 8080));
            let ports = BTreeMap::from([(port(), endpoints.collect())]);
            (ObjectName::new("shop", *name), ports)
        });
        Wanted {
            services: services.collect(),
            nodes: BTreeSet::from(["n1".to_owned()]),
        }
    }

    fn backend(identities: &Identities, service: &str, host: u8) -> Option<u32> {
        identities.backend(
            &ObjectName::new("shop", service),
            &port(),
            [10, 244, 0, host].into(),
            8080,
        )
    }

    #[test]
    fn numbers_stay_while_their_owner_lives_and_are_not_reused_at_once() {
        let first = Identities::default().assign(&wanted(&[("a", &[1, 2]), ("b", &[1])]));
        assert_eq!(backend(&first, "a", 1), Some(1));
        assert_eq!(backend(&first, "b", 1), Some(3));
        assert_eq!(first.node("n1"), Some(1));

        let second = first.assign(&wanted(&[("a", &[2, 3])]));
        assert_eq!(backend(&second, "a", 2), backend(&first, "a", 2));
        assert_eq!(backend(&second, "a", 1), None);
        assert_eq!(backend(&second, "a", 3), Some(4));
        let third = second.assign(&wanted(&[("a", &[1, 2, 3])]));
        assert_eq!(backend(&third, "a", 1), Some(5));
    }

    #[test]
    fn only_changed_records_are_written() {
        let first = Identities::default().assign(&wanted(&[("a", &[1]), ("b", &[1])]));
        assert_eq!(first.changes(&Identities::default()).len(), 3);
        assert_eq!(
            first
                .assign(&wanted(&[("a", &[1]), ("b", &[1])]))
                .changes(&first),
            []
        );
        let second = first.assign(&wanted(&[("a", &[1, 2])]));
        let keys: Vec<_> = second
            .changes(&first)
            .into_iter()
            .map(|op| match op {
                Op::Put { key, .. } => format!("put {key}"),
                Op::Delete { key, .. } => format!("delete {key}"),
            })
            .collect();
        assert_eq!(
            keys,
            [
                format!("put {SERVICES}shop/a"),
                format!("delete {SERVICES}shop/b")
            ]
        );
    }

    #[test]
    fn numbers_go_round_and_run_out() {
        let (mut cursor, mut taken) = (2, HashSet::from([1]));
        assert_eq!(draw(&mut cursor, &mut taken, 3), Some(3));
        assert_eq!(draw(&mut cursor, &mut taken, 3), Some(2));
        assert_eq!(draw(&mut cursor, &mut taken, 3), None);
    }

    #[tokio::test]
    async fn member_that_missed_anothers_numbers_gives_out_none_until_it_has_loaded_them() {
        let directory = tempfile::tempdir().unwrap();
        let config = fairlead_store::Config {
            data_dir: directory.path().to_owned(),
            member: fairlead_store::MemberId(1),
            cluster_id: "test".to_owned(),
            endpoint: "https://198.18.0.11:6445".to_owned(),
            tls: None,
            timing: fairlead_store::Timing::default(),
            limits: fairlead_store::Limits::default(),
        };
        let store = Store::open(config).await.unwrap();
        store.initialize().await.unwrap();
        let mut led = store.leadership();
        led.wait_for(|now| now.is_leader).await.unwrap();

        let mut deposed = Identities::load(&store.snapshot());
        let mut leading = deposed.clone();
        leading
            .ensure(&wanted(&[("a", &[1])]), &store)
            .await
            .unwrap();
        leading
            .ensure(&wanted(&[("a", &[1, 2])]), &store)
            .await
            .unwrap();
        let late = wanted(&[("b", &[1])]);
        assert!(deposed.ensure(&late, &store).await.is_err());
        assert_eq!(Identities::load(&store.snapshot()), leading);

        let mut deposed = Identities::load(&store.snapshot());
        deposed.ensure(&late, &store).await.unwrap();
        assert_eq!(backend(&deposed, "b", 1), Some(3));
        store.shutdown().await;
    }
}
