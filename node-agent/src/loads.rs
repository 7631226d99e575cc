//! How busy backends are, as the control plane is told: what changed, and no more.

use std::collections::HashMap;

use fairlead_api::BackendId;
use fairlead_proto::node::{BackendLoad, Loads};

/// What one session has been told.
#[derive(Default)]
pub(crate) struct Told(HashMap<BackendId, u32>);

impl Told {
    /// What is to be told now that backends have `connections`; nothing if that is known.
    pub(crate) fn tell(&mut self, connections: &HashMap<BackendId, u32>) -> Option<Loads> {
        let before = std::mem::take(&mut self.0);
        let ended = before.keys().filter(|id| !connections.contains_key(id));
        let changed = connections
            .iter()
            .filter(|(id, count)| before.get(id).copied().unwrap_or(0) != **count);
        let mut backends: Vec<BackendLoad> = changed
            .map(|(id, count)| (*id, *count))
            .chain(ended.map(|id| (*id, 0)))
            .map(|(id, connections)| BackendLoad {
                id: id.0,
                connections,
            })
            .collect();
        backends.sort_unstable_by_key(|load| load.id);
        let open = connections.iter().filter(|(_, count)| **count > 0);
        self.0 = open.map(|(id, count)| (*id, *count)).collect();
        (!backends.is_empty()).then_some(Loads { backends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_told_and_what_ended_is_none() {
        let mut told = Told::default();
        let mut tell = |loads: &[(u32, u32)]| {
            let loads = loads
                .iter()
                .map(|(id, count)| (BackendId(*id), *count))
                .collect();
            let message = told.tell(&loads)?;
            let backends = message.backends.iter();
            Some(
                backends
                    .map(|load| (load.id, load.connections))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(tell(&[]), None);
        assert_eq!(tell(&[(1, 0)]), None, "who was never named has none");
        assert_eq!(tell(&[(1, 5), (2, 7)]), Some(vec![(1, 5), (2, 7)]));
        assert_eq!(tell(&[(1, 5), (2, 7)]), None);
        assert_eq!(tell(&[(1, 6), (2, 7)]), Some(vec![(1, 6)]));
        assert_eq!(tell(&[(1, 6)]), Some(vec![(2, 0)]));
        assert_eq!(tell(&[(1, 0)]), Some(vec![(1, 0)]));
        assert_eq!(tell(&[]), None);
    }
}
