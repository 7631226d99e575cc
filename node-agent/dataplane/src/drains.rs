//! Since when backends drain, and whose time is over.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_api::BackendId;

use crate::desired::{Backend, Desired, Scope};
use crate::moving::Seconds;

/// Backends that drain, of services that give them so long and no longer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drains {
    since: BTreeMap<BackendId, Seconds>,
}

impl Drains {
    /// Notes which of the backends in `scope` drain by `desired`. After a restart all of them begin
    /// anew.
    pub(crate) fn note(&mut self, scope: &Scope, desired: &Desired, now: Seconds) {
        let everything: BTreeSet<BackendId>;
        let concerned = match scope {
            Scope::Services(touched) => &touched.backends,
            Scope::Everything => {
                let held = self.since.keys().copied();
                everything = desired.backends.keys().copied().chain(held).collect();
                &everything
            }
        };
        for &id in concerned {
            if self.is_timed(id, desired) {
                self.since.entry(id).or_insert(now);
            } else {
                self.since.remove(&id);
            }
        }
    }

    /// Those whose time is over.
    pub(crate) fn over(&self, desired: &Desired, now: Seconds) -> BTreeSet<BackendId> {
        let is_over = |(&id, &since): (&BackendId, &Seconds)| {
            let service = desired.services.get(desired.backends.get(&id)?)?;
            let passed = u64::from(now.saturating_sub(since));
            // Both times are whole seconds, rounded down: nobody gets less than all of its time.
            (passed > service.drain?.as_secs()).then_some(id)
        };
        self.since.iter().filter_map(is_over).collect()
    }

    fn is_timed(&self, id: BackendId, desired: &Desired) -> bool {
        let service = desired
            .backends
            .get(&id)
            .and_then(|owner| desired.services.get(owner));
        let drains = |backend: &Backend| backend.draining;
        service.is_some_and(|service| {
            service.drain.is_some() && service.backends.get(&id).is_some_and(drains)
        })
    }
}

#[cfg(test)]
mod tests {
    use fairlead_api::ServiceId;
    use fairlead_proto::node::BackendState;

    use super::*;
    use crate::changes::Changes;
    use crate::examples::{own, state};

    #[test]
    fn backend_has_its_time_from_when_it_began_to_drain() {
        let mut state = state();
        state.services[0].drain_seconds = 30;
        state.services[0].backends[0].state = BackendState::Draining.into();
        state.services[1].backends[0].state = BackendState::Draining.into();
        let check = |state| {
            let whole = Changes::whole(state);
            Desired::default().advance(&whole, &own()).unwrap().0
        };
        let desired = check(state.clone());
        let touched = Scope::Services(desired.touching([ServiceId(1), ServiceId(2)]));
        let mut drains = Drains::default();
        drains.note(&touched, &desired, 100);
        drains.note(&touched, &desired, 110);
        assert!(drains.over(&desired, 130).is_empty());
        assert_eq!(drains.over(&desired, 131), [BackendId(11)].into());
        assert_eq!(drains.over(&desired, 9_000), [BackendId(11)].into());

        state.services[0].backends[0].state = BackendState::Active.into();
        let desired = check(state);
        drains.note(&Scope::Everything, &desired, 120);
        assert!(drains.over(&desired, 9_000).is_empty());
    }
}
