//! What a [`World`]'s uplink is, and what is said on its segment.

use std::net::IpAddr;

use fairlead_dataplane_common::{
    Address, ConflictEntry, Counter, FRONTEND_ANNOUNCED, FrontendKey, UplinkEntry,
};

use crate::World;
use crate::frame::OWN_MAC;

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
