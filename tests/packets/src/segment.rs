//! What a [`World`]'s uplink is, and what is said on its segment.

use std::net::{IpAddr, SocketAddr};

use fairlead_dataplane_common::{
    Address, BACKEND_ACTIVE, BACKEND_SERVER, BackendEntry, ConflictEntry, Counter,
    FRONTEND_ANNOUNCED, FrontendKey, NODE_ADJACENT, NODE_SERVER, NodeEntry, ServiceEntry,
    UplinkEntry,
};

use crate::frame::OWN_MAC;
use crate::{NODE_1, NODE_1_V6, World};

/// The loopback, which `BPF_PROG_TEST_RUN` pretends frames came in by.
const UPLINK: u32 = 1;

impl World {
    /// Tells the programs of the uplink, which takes packets of `mtu` bytes.
    pub fn set_uplink(&mut self, mtu: u32) {
        let entry = UplinkEntry {
            mac: OWN_MAC,
            flags: 0,
            mtu,
        };
        self.tables
            .uplinks
            .insert(UPLINK, entry, 0)
            .expect("write the uplink");
    }

    /// Gives the node an IPv6 address beside its own.
    pub fn add_node_v6(&mut self) {
        let mut config = self.tables.config.get(&0, 0).expect("read config");
        config.other_address = NODE_1_V6.into();
        self.tables.config.set(0, config, 0).expect("write config");
    }

    /// Says that there are other uplinks than the one that the node or server in `slot` is reached by,
    /// which has the index `ifindex`.
    pub fn set_interface(&mut self, slot: u32, ifindex: u32) {
        let mut node: NodeEntry = self.tables.nodes.get(slot).expect("read the node");
        node.ifindex = ifindex;
        self.tables
            .nodes
            .set(slot, node.by_interface(true))
            .expect("write the node");
    }

    /// Puts a real server outside the cluster into node slot and backend slot `slot`, its backend id
    /// being 100 higher; `mac` is its own, or nothing while it is not known.
    pub fn add_server(&mut self, slot: u32, server: SocketAddr, mac: Option<[u8; 6]>) {
        let address = Address::from(server.ip());
        let mut node = NodeEntry::new(slot, address, NODE_1.into(), UPLINK, 1500, mac);
        node.flags |= NODE_SERVER | NODE_ADJACENT;
        self.tables.nodes.set(slot, node).expect("write the server");
        let backend = BackendEntry {
            address,
            id: 100 + slot,
            node: slot,
            vpc: 0,
            port_be: server.port().to_be(),
            state: BACKEND_ACTIVE,
            flags: BACKEND_SERVER,
        };
        self.tables
            .backends
            .set(slot, backend)
            .expect("write the backend");
    }

    /// Adds to the flags of the service in `slot`.
    pub fn set_flags(&mut self, slot: u32, flags: u32) {
        self.change_flags(slot, |held| held | flags);
    }

    /// Takes from the flags of the service in `slot`.
    pub fn clear_flags(&mut self, slot: u32, flags: u32) {
        self.change_flags(slot, |held| held & !flags);
    }

    fn change_flags(&mut self, slot: u32, change: impl FnOnce(u32) -> u32) {
        let index = ServiceEntry::index(0, slot);
        let mut entry: ServiceEntry = self.tables.services.get(index).expect("read the service");
        entry.flags = change(entry.flags);
        self.tables
            .services
            .set(index, entry)
            .expect("write the service");
    }

    /// Makes this node the one that announces `vip`, of which the world has an entry.
    pub fn announce(&mut self, vip: IpAddr) {
        let key = FrontendKey::of_address(0, vip.into());
        for bucket in key.buckets() {
            let index = FrontendKey::index(0, bucket);
            let mut content = self.tables.frontends.get(index).expect("read the bucket");
            for entry in &mut content.entries {
                if entry.key == key {
                    entry.flags |= FRONTEND_ANNOUNCED;
                }
            }
            self.tables
                .frontends
                .set(index, content)
                .expect("write the bucket");
        }
    }

    /// Who else was seen to announce `vip`.
    pub fn conflict(&self, vip: IpAddr) -> Option<ConflictEntry> {
        self.tables.conflicts.get(&Address::from(vip), 0).ok()
    }

    /// How often `counter` was counted, on all CPUs.
    pub fn counter(&self, counter: Counter) -> u64 {
        let counts = self
            .tables
            .counters
            .get(&(counter as u32), 0)
            .expect("read the counter");
        counts.iter().sum()
    }
}
