//! What the agent knows and the maps hold, under one lock: who changes a map records it here.

mod probes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::RandomState;
use std::net::IpAddr;
use std::time::Instant;

use fairlead_api::{BackendId, Generation, NodeName, ServiceId};
use fairlead_dataplane_common::{LUT_SETTLING, NODE_SERVER, UplinkEntry};
use ipnetwork::IpNetwork;

use crate::Error;
use crate::action::Action;
use crate::changes::Changes;
use crate::desired::{Desired, Scope, Touched};
use crate::drains::Drains;
use crate::loader::Loaded;
use crate::local::{Local, Way};
use crate::moving::Seconds;
use crate::netlink::Mac;
use crate::observed::{Content, Load, Observed, range_of};
use crate::plan::{self, Moment};
use crate::probing::Proofs;
use crate::sweep::{Rules, Swept};
use crate::sys;

/// Services that go on from one state to the next at a time, at most: what a change of the control
/// plane's may have to wait for.
const PROGRESS_MAX: usize = 1_000;

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
    /// Services whose tables the last plans have changed, and of which it is not known yet whether any
    /// packet has met the table before.
    changed: BTreeSet<ServiceId>,
    /// Counts the states that were left, and so names the last one.
    serial: u64,
    /// Whether a plan was cut short, so that the next one has to look at everything.
    is_unsure: bool,
    /// When this was made: the beginning of its clock.
    started: Instant,
    drains: Drains,
    /// How many connections backends have on this node, where a scheduler asks; as last counted.
    connections: HashMap<BackendId, u32>,
    /// The uplinks, as they are now.
    uplinks: BTreeMap<u32, UplinkEntry>,
    /// To which nodes frames may be passed on.
    proofs: Proofs,
    /// Numbers the questions to them, so that nobody can answer who was not asked.
    nonces: RandomState,
    asked: u64,
}

impl State {
    /// Adopts what the maps hold.
    pub(crate) fn read(loaded: Loaded, local: Local) -> Result<Self, Error> {
        let observed = loaded.tables.observe()?;
        let uplinks = loaded.tables.known_uplinks()?;
        let mut state = Self {
            loaded,
            observed,
            desired: None,
            local,
            leaving: None,
            changed: BTreeSet::new(),
            serial: 0,
            is_unsure: true,
            started: Instant::now(),
            drains: Drains::default(),
            connections: HashMap::new(),
            uplinks,
            proofs: Proofs::default(),
            nonces: RandomState::new(),
            asked: 0,
        };
        state.adopt_proofs()?;
        Ok(state)
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
        let now = self.now();
        self.drains.note(&scope, &desired, now);
        let over = self.drains.over(&desired, now);
        // Whose time is over by now is for `progress` to find; here some get it back.
        self.local.drained.retain(|backend| over.contains(backend));
        let actions = self.enter(&desired, scope, generation, None)?;
        self.desired = Some(desired);
        if self.loaded.served_by().is_some() {
            // The state before is not cleared away yet, so the programs have all they may look for.
            self.loaded.take_over()?;
        }
        Ok(actions)
    }

    /// Goes on with what waits for time to pass, or for flows to end as `swept` has seen them: slots
    /// that move and settle, backends that drain. How many actions that took.
    pub(crate) fn progress(&mut self, swept: Option<&Swept>) -> Result<usize, Error> {
        let Some(desired) = self.desired.clone() else {
            return Ok(0);
        };
        let now = self.now();
        let over = self.drains.over(&desired, now);
        let mut services: BTreeSet<ServiceId> = over
            .symmetric_difference(&self.local.drained)
            .filter_map(|backend| desired.backends.get(backend).copied())
            .collect();
        services.extend(self.waiting(&desired, now, swept).take(PROGRESS_MAX));
        if services.is_empty() {
            return Ok(0);
        }
        self.settle()?;
        self.local.drained = over;
        let scope = Scope::Services(desired.touching(services));
        self.enter(&desired, scope, self.observed.generation, swept)
    }

    /// Services whose tables may go on.
    fn waiting(
        &self,
        desired: &Desired,
        now: Seconds,
        swept: Option<&Swept>,
    ) -> impl Iterator<Item = ServiceId> {
        let active = self.observed.services(self.observed.active());
        self.observed.moving.iter().filter_map(move |slot| {
            let entry = active.get(*slot)?;
            let id = ServiceId(entry.id);
            let service = desired.services.get(&id)?;
            let table = self.observed.tables.get(&range_of(entry))?;
            let Content::Built(_, Some(moving)) = &table.content else {
                return None;
            };
            let window = Seconds::try_from(service.timeouts.established.as_secs());
            let is_swept =
                || swept.is_some_and(|swept| swept.hashes_since(id, moving.written()).is_some());
            let is_settling = || moving.count(LUT_SETTLING) > 0;
            (moving.is_due(now, window.unwrap_or(Seconds::MAX)) || is_settling() && is_swept())
                .then_some(id)
        })
    }

    /// What the next sweep goes by; nothing until the control plane has spoken.
    pub(crate) fn rules(&self) -> Option<Rules> {
        let active = self.observed.services(self.observed.active());
        let waiting = self
            .observed
            .moving
            .iter()
            .filter_map(|slot| active.get(*slot));
        Some(Rules {
            desired: self.desired.clone()?,
            lapsed: self
                .local
                .drained
                .union(&self.local.unhealthy)
                .copied()
                .collect(),
            waiting: waiting
                .map(|entry| (ServiceId(entry.id), entry.flags))
                .collect(),
            began: self.now(),
        })
    }

    /// Takes over what a sweep has counted, and goes on with what has waited for it.
    pub(crate) fn take_sweep(&mut self, swept: Swept) -> Result<usize, Error> {
        for (slot, _) in self
            .observed
            .loads
            .iter()
            .filter(|(_, load)| load.weight > 0)
        {
            if let Some(backend) = self.observed.backends.get(*slot) {
                let counted = swept.connections.get(&BackendId(backend.id));
                let counted = counted.copied().unwrap_or(0);
                self.loaded.tables.set_connections(*slot, counted)?;
            }
        }
        let active = self.observed.services(self.observed.active());
        let noted = active.iter().map(|(slot, entry)| {
            let counted = swept.noted.get(&ServiceId(entry.id));
            (slot, counted.copied().unwrap_or(0))
        });
        let noted = noted.collect();
        self.loaded.tables.set_noted(swept.flows, &noted)?;
        let actions = self.progress(Some(&swept));
        self.connections = swept.connections;
        actions
    }

    /// How many connections backends have on this node, of services whose scheduler counts them.
    pub(crate) fn connections(&self) -> &HashMap<BackendId, u32> {
        &self.connections
    }

    /// Notes how many connections backends have on other nodes, and lets the schedulers know.
    pub(crate) fn set_loads_elsewhere(
        &mut self,
        loads: impl IntoIterator<Item = (BackendId, u32)>,
    ) -> Result<(), Error> {
        let mut actions = Vec::new();
        for (id, elsewhere) in loads {
            if elsewhere == 0 {
                self.local.loads_elsewhere.remove(&id);
            } else {
                self.local.loads_elsewhere.insert(id, elsewhere);
            }
            if let Some(&slot) = self.observed.backend_ids.get(&id.0)
                && let Some(&held) = self.observed.loads.get(&slot)
                && held.weight > 0
            {
                let load = Load { elsewhere, ..held };
                actions.push(Action::WriteLoad { slot, load });
            }
        }
        self.execute(&actions)
    }

    /// Notes which backends outside the cluster do not answer, and takes these out of their
    /// services' tables: how many actions that took.
    pub(crate) fn set_unhealthy(&mut self, unhealthy: BTreeSet<BackendId>) -> Result<usize, Error> {
        let before = std::mem::replace(&mut self.local.unhealthy, unhealthy);
        let Some(desired) = self.desired.clone() else {
            return Ok(0);
        };
        let services: BTreeSet<ServiceId> = before
            .symmetric_difference(&self.local.unhealthy)
            .filter_map(|backend| desired.backends.get(backend).copied())
            .collect();
        if services.is_empty() {
            return Ok(0);
        }
        self.settle()?;
        let scope = Scope::Services(desired.touching(services));
        self.enter(&desired, scope, self.observed.generation, None)
    }

    /// Seconds since this was made.
    fn now(&self) -> Seconds {
        Seconds::try_from(self.started.elapsed().as_secs()).unwrap_or(Seconds::MAX)
    }

    /// Reads the maps anew and puts right what is not as it should be: how many actions that took.
    pub(crate) fn resync(&mut self) -> Result<usize, Error> {
        let Some(desired) = self.desired.clone() else {
            return Ok(0);
        };
        self.settle()?;
        let before = std::mem::replace(&mut self.observed, self.loaded.tables.observe()?);
        self.observed.remember(&before);
        self.enter(&desired, Scope::Everything, self.observed.generation, None)
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
        swept: Option<&Swept>,
    ) -> Result<usize, Error> {
        let now = self.now();
        let scope = if self.is_unsure {
            Scope::Everything
        } else {
            scope
        };
        let unused = match &scope {
            Scope::Services(touched) => self.unused(touched)?,
            Scope::Everything => BTreeSet::new(),
        };
        let moment = Moment {
            now,
            swept,
            unused: Some(&unused),
        };
        let (local, observed) = (&self.local, &self.observed);
        let plan = plan::plan(desired, &scope, local, observed, generation, moment)
            .map_err(Error::Full)?;
        self.execute(&plan.enter)?;
        self.is_unsure = false;
        self.changed
            .extend(changed_tables(&plan.enter, &self.observed));
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

    /// Takes back what was kept for connections of the tables before, at services that no packet had met
    /// here when their tables changed: most services' first backends come up one after the other, and
    /// a base of the very first would be in the way of what they need one for later. To be called when
    /// nothing is [unsettled](Self::unsettled): no program picks by the table before any more, so what
    /// is not counted by now was never picked. How many actions that took.
    pub(crate) fn rest(&mut self) -> Result<usize, Error> {
        let changed = std::mem::take(&mut self.changed);
        let Some(desired) = self.desired.clone().filter(|_| !changed.is_empty()) else {
            return Ok(0);
        };
        let unused = self.unused(&desired.touching(changed))?;
        if unused.is_empty() {
            return Ok(0);
        }
        let scope = Scope::Services(desired.touching(unused));
        let actions = self.enter(&desired, scope, self.observed.generation, None)?;
        // They are at rest now.
        self.changed.clear();
        Ok(actions)
    }

    /// Those of the services that no packet has met here. To be asked when nothing is
    /// [unsettled](Self::unsettled).
    fn unused(&self, touched: &Touched) -> Result<BTreeSet<ServiceId>, Error> {
        let mut unused = BTreeMap::new();
        let tables = &self.loaded.tables;
        for &id in &touched.services {
            let Some((slot, _)) = self.observed.service(id) else {
                continue;
            };
            let stats = tables.stats_of_service(slot, [])?;
            if (stats.packets, stats.connections) == (0, 0) {
                unused.insert(slot, id);
            }
        }
        for backend in &touched.backends {
            let slot = self.observed.backend_ids.get(&backend.0);
            let owner = slot.and_then(|slot| self.observed.backend_owners.get(slot));
            let (Some(slot), Some(owner)) = (slot, owner) else {
                continue;
            };
            if unused.contains_key(owner) {
                let stats = tables.stats_of_backend(*slot)?;
                if (stats.packets, stats.connections) != (0, 0) {
                    unused.remove(owner);
                }
            }
        }
        Ok(unused.into_values().collect())
    }

    /// Notes where pods here get their addresses from, and lets the programs know.
    pub(crate) fn set_pod_ranges(&mut self, ranges: Vec<IpNetwork>) -> Result<(), Error> {
        self.local.pod_ranges = ranges;
        match self.desired.clone() {
            Some(desired) => {
                self.settle()?;
                let generation = self.observed.generation;
                self.enter(&desired, Scope::Everything, generation, None)?;
                Ok(())
            }
            // The next apply brings the route; until then what is in the maps stays.
            None => self.refresh_local(),
        }
    }

    /// Notes the way to another node or a real server, and lets the programs use it. Returns whether it
    /// is another one than before.
    pub(crate) fn set_way(&mut self, to: IpAddr, way: Way) -> Result<bool, Error> {
        if self.local.ways.insert(to, way) == Some(way) {
            return Ok(false);
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
            let entry = if before.flags & NODE_SERVER == 0 {
                self.local.node_entry(before.id, to, Some(before))
            } else {
                self.local.server_entry(slot, to, Some(before))
            };
            if entry != *before {
                actions.push(Action::WriteNode { slot, entry });
            }
        }
        if !actions.is_empty() {
            tracing::info!(%to, resolved = way.mac.is_some(), "way changed");
        }
        self.execute(&actions)?;
        Ok(true)
    }

    /// The VIPs that are announced here.
    pub(crate) fn announced(&self) -> BTreeSet<IpAddr> {
        let desired = self.desired.as_ref();
        desired.map(Desired::announced).unwrap_or_default()
    }

    /// Who else has announced VIPs that are announced here since this was asked last.
    pub(crate) fn take_claims(&mut self) -> Result<BTreeMap<IpAddr, Mac>, Error> {
        let announced = self.announced();
        let claims = self.loaded.tables.take_conflicts()?.into_iter();
        Ok(claims
            .map(|(vip, claim)| (vip, claim.mac))
            .filter(|(vip, _)| announced.contains(vip))
            .collect())
    }

    /// Leaves VIPs to whoever announces them, until the control plane says otherwise.
    pub(crate) fn give_up(&mut self, vips: &BTreeSet<IpAddr>) -> Result<(), Error> {
        let Some(desired) = &self.desired else {
            return Ok(());
        };
        let (desired, scope) = desired.without_announcements(vips);
        self.settle()?;
        self.enter(&desired, scope, self.observed.generation, None)?;
        self.desired = Some(desired);
        Ok(())
    }

    /// Lets the programs know the uplinks, and forget those that are none any more.
    pub(crate) fn set_uplinks(
        &mut self,
        uplinks: &BTreeMap<u32, UplinkEntry>,
    ) -> Result<(), Error> {
        self.uplinks.clone_from(uplinks);
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
        for together in actions.chunk_by(Action::may_be_one) {
            if let Err(error) = self.loaded.tables.execute(together) {
                self.is_unsure = true;
                return Err(error.into());
            }
            for action in together {
                self.observed.record(action);
            }
        }
        Ok(())
    }
}

/// The services whose tables `actions` have made others, with something to remember of those before.
fn changed_tables(actions: &[Action], observed: &Observed) -> impl Iterator<Item = ServiceId> {
    let active = observed.services(observed.active());
    actions.iter().filter_map(move |action| match action {
        Action::WriteTable {
            service,
            moving: Some(_),
            ..
        } => Some(ServiceId(active.get(*service)?.id)),
        _ => None,
    })
}
