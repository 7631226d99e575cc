//! What the agent knows and the maps hold, under one lock: who changes a map records it here.

use std::net::IpAddr;

use fairlead_api::Generation;
use ipnetwork::IpNetwork;

use crate::Error;
use crate::action::Action;
use crate::desired::Desired;
use crate::loader::Loaded;
use crate::local::{Local, Way};
use crate::observed::Observed;
use crate::plan;

/// See the [module](self).
pub(crate) struct State {
    pub(crate) loaded: Loaded,
    pub(crate) observed: Observed,
    /// What was applied last; `None` after a restart, until the control plane has spoken. Nothing
    /// is removed from the maps before.
    pub(crate) desired: Option<Desired>,
    pub(crate) local: Local,
}

impl State {
    /// Adopts what the maps hold.
    pub(crate) fn read(loaded: Loaded, local: Local) -> Result<Self, Error> {
        let observed = loaded.tables.observe()?;
        Ok(Self {
            loaded,
            observed,
            desired: None,
            local,
        })
    }

    /// Brings the maps to `desired`; how many actions that took.
    pub(crate) fn apply(
        &mut self,
        desired: Desired,
        generation: Generation,
    ) -> Result<usize, Error> {
        let held = self.observed.generation;
        if generation < held {
            return Err(Error::Older {
                offered: generation,
                held,
            });
        }
        let actions =
            plan::plan(&desired, &self.local, &self.observed, generation).map_err(Error::Full)?;
        self.execute(&actions)?;
        self.desired = Some(desired);
        let kept = |action: &&Action| matches!(action, Action::KeepTable { .. });
        Ok(actions.len() - actions.iter().filter(kept).count())
    }

    /// Notes where pods here get their addresses from, and lets the programs know.
    pub(crate) fn set_pod_range(&mut self, range: IpNetwork) -> Result<(), Error> {
        self.local.pod_range = Some(range);
        let actions = match &self.desired {
            Some(desired) => plan::plan(
                desired,
                &self.local,
                &self.observed,
                self.observed.generation,
            )
            .map_err(Error::Full)?,
            // The next apply brings the route; until then what is in the maps stays.
            None => self.adopt_local(),
        };
        self.execute(&actions)
    }

    /// Notes the way to another node, and lets the programs use it.
    pub(crate) fn set_way(&mut self, node: IpAddr, way: Way) -> Result<(), Error> {
        if self.local.ways.insert(node, way) == Some(way) {
            return Ok(());
        }
        let actions: Vec<Action> = self
            .observed
            .nodes
            .iter()
            .filter(|(_, entry)| entry.address == node.into())
            .map(|(&slot, before)| Action::WriteNode {
                slot,
                entry: self.local.node_entry(before.id, node, Some(before)),
            })
            .filter(|action| {
                !matches!(action, Action::WriteNode { slot, entry }
                    if self.observed.nodes.get(slot) == Some(entry))
            })
            .collect();
        if !actions.is_empty() {
            tracing::info!(%node, resolved = way.mac.is_some(), "way to a node changed");
        }
        self.execute(&actions)
    }

    /// Writes this node's own facts where they differ from what the last agent wrote.
    pub(crate) fn refresh_local(&mut self) -> Result<(), Error> {
        let actions = self.adopt_local();
        self.execute(&actions)
    }

    fn adopt_local(&self) -> Vec<Action> {
        let config = self.local.in_config(self.observed.config);
        if config == self.observed.config {
            Vec::new()
        } else {
            vec![Action::WriteConfig { config }]
        }
    }

    /// Executes in order, and stops at the first failure: what was done is recorded, so the next
    /// plan goes on from there.
    fn execute(&mut self, actions: &[Action]) -> Result<(), Error> {
        for action in actions {
            self.loaded.tables.execute(action)?;
            self.observed.record(action);
        }
        Ok(())
    }
}
