//! What the agent knows and the maps hold, under one lock: who changes a map records it here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairlead_api::{Generation, NodeName};
use fairlead_dataplane_common::{NODE_SERVER, UplinkEntry};
use ipnetwork::IpNetwork;

use crate::Error;
use crate::action::Action;
use crate::changes::Changes;
use crate::desired::{Desired, Scope};
use crate::loader::Loaded;
use crate::local::{Local, Way};
use crate::observed::Observed;
use crate::plan;
use crate::sys;

/// See the [module](self).
pub(crate) struct State {
    pub(crate) loaded: Loaded,
    pub(crate) observed: Observed,
    /// What was applied last; `None` after a restart, until the control plane has spoken. Nothing
    /// is removed from the maps before.
    pub(crate) desired: Option<Desired>,
    pub(crate) local: Local,
    /// What is left to do of the last plan once no program reads the state before it.
    leaving: Option<Vec<Action>>,
    /// Counts the states that were left, and so names the last one.
    serial: u64,
    /// Whether a plan was cut short, so that the next one has to look at everything.
    is_unsure: bool,
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
            leaving: None,
            serial: 0,
            is_unsure: true,
        })
    }

    /// Brings the maps to the state after `changes`, as sent to the node called `own`; how many
    /// actions that took. What the state before needs stays until [`Self::settle`].
    pub(crate) fn apply(
        &mut self,
        changes: &Changes,
        own: &NodeName,
        generation: Generation,
    ) -> Result<usize, Error> {
        let held = self.observed.generation;
        if generation < held {
            return Err(Error::Older {
                offered: generation,
                held,
            });
        }
        if self.desired.is_none() && !changes.is_whole {
            return Err(Error::Incomplete);
        }
        let before = self.desired.clone().unwrap_or_default();
        let (desired, scope) = before.advance(changes, own).map_err(Error::Invalid)?;
        self.settle()?;
        let actions = self.enter(&desired, scope, generation)?;
        self.desired = Some(desired);
        Ok(actions)
    }

    /// Reads the maps anew and puts right what is not as it should be: how many actions that took.
    pub(crate) fn resync(&mut self) -> Result<usize, Error> {
        let Some(desired) = self.desired.clone() else {
            return Ok(0);
        };
        self.settle()?;
        self.observed = self.loaded.tables.observe()?;
        self.enter(&desired, Scope::Everything, self.observed.generation)
    }

    /// Clears away the state before, waiting for the programs that may still read it.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        match self.unsettled() {
            Some(serial) => {
                sys::wait_for_programs();
                self.clear_away(serial)
            }
            None => Ok(()),
        }
    }

    /// Names the state before, if it was not cleared away yet.
    pub(crate) fn unsettled(&self) -> Option<u64> {
        self.leaving.as_ref().map(|_| self.serial)
    }

    /// Clears away the state before, if it still is the one named: programs that ran when that was
    /// asked have ended.
    pub(crate) fn clear_away(&mut self, named: u64) -> Result<(), Error> {
        if self.unsettled() != Some(named) {
            return Ok(());
        }
        let removals = self.leaving.take().unwrap_or_default();
        self.execute(&removals)?;
        self.execute(&self.observed.level())
    }

    fn enter(
        &mut self,
        desired: &Desired,
        scope: Scope,
        generation: Generation,
    ) -> Result<usize, Error> {
        let scope = if self.is_unsure {
            Scope::Everything
        } else {
            scope
        };
        let plan = plan::plan(desired, &scope, &self.local, &self.observed, generation)
            .map_err(Error::Full)?;
        self.execute(&plan.enter)?;
        self.is_unsure = false;
        let is_noted_only = |action: &&Action| {
            matches!(
                action,
                Action::KeepTable { .. } | Action::FreeTable { .. } | Action::SetGeneration { .. }
            )
        };
        let actions = plan.enter.iter().chain(&plan.leave);
        let count = actions.clone().count() - actions.filter(is_noted_only).count();
        if !plan.leave.is_empty() || !self.observed.level().is_empty() {
            self.serial += 1;
            self.leaving = Some(plan.leave);
        }
        Ok(count)
    }

    /// Notes where pods here get their addresses from, and lets the programs know.
    pub(crate) fn set_pod_range(&mut self, range: IpNetwork) -> Result<(), Error> {
        self.local.pod_range = Some(range);
        match self.desired.clone() {
            Some(desired) => {
                self.settle()?;
                let generation = self.observed.generation;
                self.enter(&desired, Scope::Everything, generation)?;
                Ok(())
            }
            // The next apply brings the route; until then what is in the maps stays.
            None => self.refresh_local(),
        }
    }

    /// Notes the way to another node or a real server, and lets the programs use it.
    pub(crate) fn set_way(&mut self, to: IpAddr, way: Way) -> Result<(), Error> {
        if self.local.ways.insert(to, way) == Some(way) {
            return Ok(());
        }
        let address = to.into();
        let observed = &self.observed;
        let slots = [
            observed.node_addresses.get(&address),
            observed.servers.get(&address),
        ];
        let mut actions = Vec::new();
        for &slot in slots.into_iter().flatten() {
            let Some(before) = observed.nodes.get(slot) else {
                continue;
            };
            let mut entry = self.local.node_entry(before.id, to, Some(before));
            entry.flags |= before.flags & NODE_SERVER;
            if entry != *before {
                actions.push(Action::WriteNode { slot, entry });
            }
        }
        if !actions.is_empty() {
            tracing::info!(%to, resolved = way.mac.is_some(), "way changed");
        }
        self.execute(&actions)
    }

    /// Lets the programs know the uplinks, and forget those that are none any more.
    pub(crate) fn set_uplinks(
        &mut self,
        uplinks: &BTreeMap<u32, UplinkEntry>,
    ) -> Result<(), Error> {
        Ok(self.loaded.tables.set_uplinks(uplinks)?)
    }

    /// Forgets ways to machines that are nobody's backend any more.
    pub(crate) fn retain_ways(&mut self, wanted: &BTreeSet<IpAddr>) {
        self.local.ways.retain(|to, _| wanted.contains(to));
    }

    /// Writes this node's own facts where they differ from what the last agent wrote.
    pub(crate) fn refresh_local(&mut self) -> Result<(), Error> {
        let config = self.local.in_config(self.observed.config);
        if config == self.observed.config {
            return Ok(());
        }
        self.execute(&[Action::WriteConfig { config }])
    }

    /// Executes in order, and stops at the first failure: what was done is recorded, so the next
    /// plan goes on from there.
    fn execute(&mut self, actions: &[Action]) -> Result<(), Error> {
        for action in actions {
            if let Err(error) = self.loaded.tables.execute(action) {
                self.is_unsure = true;
                return Err(error.into());
            }
            self.observed.record(action);
        }
        Ok(())
    }
}
