//! The questions that were put to other nodes.

use aya::maps::MapError;
use fairlead_dataplane_common::{ProbeEntry, maps as names};

use super::{Error, collect, insert, remove};
use crate::loader::Tables;

impl Tables {
    /// Lets the programs note the answer of a node to the question of this number.
    pub fn await_answer(&mut self, node: u32, nonce: u32) -> Result<(), Error> {
        let entry = ProbeEntry {
            nonce,
            is_answered: 0,
        };
        insert(&mut self.probes, names::PROBES, node, entry)
    }

    /// Whether a node has answered the last question to it.
    pub fn is_probe_answered(&self, node: u32) -> Result<bool, Error> {
        match self.probes.get(&node, 0) {
            Ok(entry) => Ok(entry.is_answered != 0),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(Error::of("read", names::PROBES)(error)),
        }
    }

    /// Heeds no answer of a node any more.
    pub fn forget_probe(&mut self, node: u32) -> Result<(), Error> {
        remove(&mut self.probes, names::PROBES, &node)
    }

    /// The same of all nodes.
    pub fn forget_probes(&mut self) -> Result<(), Error> {
        let held: Vec<(u32, ProbeEntry)> = collect(self.probes.iter(), names::PROBES)?;
        held.iter()
            .try_for_each(|(node, _)| self.forget_probe(*node))
    }
}
