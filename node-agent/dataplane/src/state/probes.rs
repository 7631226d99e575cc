//! Probes of other nodes: what is asked by what the maps and ways say, and what answers change.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Instant;

use fairlead_dataplane_common::{NODE_SERVER, NodeEntry, Probe};

use super::State;
use crate::Error;
use crate::action::Action;
use crate::probing::{Proofs, Reach, Round, Target};

impl State {
    /// Takes over what the agent before this one has proved, as the maps hold it.
    pub(super) fn adopt_proofs(&mut self) -> Result<(), Error> {
        self.loaded.tables.forget_probes()?;
        let mut proofs = Proofs::default();
        let now = Instant::now();
        for entry in self.observed.nodes.values() {
            if is_node(entry) && entry.takes_frames() {
                let target = Target {
                    interface: entry.ifindex,
                    mac: entry.mac,
                };
                proofs.adopt(entry.id, target, now);
            }
        }
        self.local.proved = proofs.proved().collect();
        self.proofs = proofs;
        Ok(())
    }

    /// Takes in the answers there are, lets the programs know what they prove, and says whom to ask now.
    pub(crate) fn probe(&mut self, now: Instant) -> Result<Round, Error> {
        for node in self.proofs.awaited() {
            if self.loaded.tables.is_probe_answered(node)? {
                self.proofs.note_answer(node, now);
            }
        }
        let targets = self.targets();
        for gone in self.proofs.set_targets(&targets, now) {
            self.loaded.tables.forget_probe(gone)?;
        }
        let mut questions = Vec::new();
        for (node, target) in self.proofs.take_due(now) {
            let Some(uplink) = self.uplinks.get(&target.interface) else {
                continue;
            };
            self.asked += 1;
            let nonce = self.nonces.hash_one(self.asked) as u32;
            self.loaded.tables.await_answer(node, nonce)?;
            let own = self.observed.config.node_id;
            let frame = Probe::request(own, node, uplink.mac, nonce).frame(target.mac);
            questions.push((target.interface, frame.to_vec()));
        }
        self.write_proofs()?;
        let pause = self.proofs.pause(now);
        Ok(Round { questions, pause })
    }

    /// What is known of frames that are passed on to the node of an entry.
    pub(crate) fn reach(&self, entry: &NodeEntry) -> Reach {
        match self.local.ways.get(&IpAddr::from(entry.address)) {
            Some(way) if !way.direct => Reach::Routed,
            Some(way) if !self.uplinks.contains_key(&way.interface) => Reach::NoUplink,
            Some(way) if way.mac.is_none() => Reach::Unresolved,
            Some(_) | None => self.proofs.reach(entry.id, Instant::now()),
        }
    }

    /// The nodes that are to be asked, and where; nowhere while that is not known.
    fn targets(&self) -> BTreeMap<u32, Option<Target>> {
        let mut targets = BTreeMap::new();
        // Before the first state this node has no number to ask in the name of.
        if self.observed.config.node_id == 0 {
            return targets;
        }
        for entry in self.observed.nodes.values().filter(|entry| is_node(entry)) {
            match self.local.ways.get(&IpAddr::from(entry.address)) {
                Some(way) if !way.direct || !self.uplinks.contains_key(&way.interface) => {}
                Some(way) => {
                    let interface = way.interface;
                    let target = way.mac.map(|mac| Target { interface, mac });
                    targets.insert(entry.id, target);
                }
                None => {
                    targets.insert(entry.id, None);
                }
            }
        }
        targets
    }

    /// Lets frames be passed on to the nodes that are proved to get them, and to no others.
    fn write_proofs(&mut self) -> Result<(), Error> {
        let proved: HashMap<u32, Target> = self.proofs.proved().collect();
        if proved == self.local.proved {
            return Ok(());
        }
        self.local.proved = proved;
        let mut actions = Vec::new();
        for (slot, before) in self.observed.nodes.iter() {
            if !is_node(before) {
                continue;
            }
            let address = before.address.into();
            let entry = self.local.node_entry(before.id, address, Some(before));
            if entry != *before {
                let takes_frames = entry.takes_frames();
                tracing::info!(node = %address, takes_frames, "probes have shown how a node is reached");
                actions.push(Action::WriteNode { slot, entry });
            }
        }
        self.execute(&actions)
    }
}

fn is_node(entry: &NodeEntry) -> bool {
    entry.flags & NODE_SERVER == 0
}
