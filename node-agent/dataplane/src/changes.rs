use std::collections::BTreeMap;
use std::mem;

use bytes::Bytes;
use fairlead_proto::node::{
    Announcement, DataplaneState, Delta, NodeAddress, Parameters, Route, Service,
};

/// What the control plane wants otherwise than before. Later changes can be merged into earlier
/// ones that were not applied yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Whether these are all there is to be: what is not named goes.
    pub is_whole: bool,
    /// Another set of parameters.
    pub parameters: Option<Parameters>,
    /// Service ports by id; `None` for one that goes.
    pub services: BTreeMap<u32, Option<Service>>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Option<NodeAddress>>,
    /// Routes by VPC and prefix.
    pub routes: BTreeMap<(u32, String), Option<Route>>,
    /// Who announces a VIP, by its address as octets.
    pub announcements: BTreeMap<Bytes, Option<Announcement>>,
}

impl Changes {
    /// The whole state. Of two with one key the later counts.
    pub fn whole(state: DataplaneState) -> Self {
        let mut changes = Self {
            is_whole: true,
            parameters: state.parameters,
            ..Self::default()
        };
        changes.put(state.services, state.nodes, state.routes);
        changes.put_announcements(state.announcements);
        changes
    }

    /// Takes the dataplane's part out of a delta.
    pub fn take_from(delta: &mut Delta) -> Self {
        let mut changes = Self::default();
        let gone = mem::take(&mut delta.removed_services);
        changes
            .services
            .extend(gone.into_iter().map(|id| (id, None)));
        let gone = mem::take(&mut delta.removed_nodes);
        changes
            .nodes
            .extend(gone.into_iter().map(|name| (name, None)));
        let gone = mem::take(&mut delta.removed_routes);
        changes
            .routes
            .extend(gone.into_iter().map(|key| ((key.vpc, key.prefix), None)));
        let gone = mem::take(&mut delta.removed_announcements);
        changes
            .announcements
            .extend(gone.into_iter().map(|address| (address, None)));
        changes.put(
            mem::take(&mut delta.services),
            mem::take(&mut delta.nodes),
            mem::take(&mut delta.routes),
        );
        changes.put_announcements(mem::take(&mut delta.announcements));
        changes
    }

    /// Adds what came later.
    pub fn merge(&mut self, later: Self) {
        if later.is_whole {
            *self = later;
            return;
        }
        if later.parameters.is_some() {
            self.parameters = later.parameters;
        }
        self.services.extend(later.services);
        self.nodes.extend(later.nodes);
        self.routes.extend(later.routes);
        self.announcements.extend(later.announcements);
    }

    fn put(&mut self, services: Vec<Service>, nodes: Vec<NodeAddress>, routes: Vec<Route>) {
        self.services
            .extend(services.into_iter().map(|one| (one.id, Some(one))));
        self.nodes
            .extend(nodes.into_iter().map(|one| (one.name.clone(), Some(one))));
        self.routes.extend(routes.into_iter().map(|one| {
            // Without a key it is refused when the changes are checked.
            let key = one.key.clone().unwrap_or_default();
            ((key.vpc, key.prefix), Some(one))
        }));
    }

    fn put_announcements(&mut self, announcements: Vec<Announcement>) {
        self.announcements.extend(
            announcements
                .into_iter()
                .map(|one| (one.address.clone(), Some(one))),
        );
    }
}

#[cfg(test)]
mod tests {
    use fairlead_proto::node::RouteKey;

    use super::*;
    use crate::examples::{service, state};

    #[test]
    fn later_changes_replace_earlier_ones_of_the_same_key() {
        let mut changes = Changes::whole(state());
        let mut delta = Delta {
            services: vec![service(2, "renamed", [10, 96, 0, 2], None)],
            removed_services: vec![1],
            removed_nodes: vec!["node-3".to_owned()],
            removed_routes: vec![RouteKey {
                vpc: 0,
                prefix: "10.244.3.0/24".to_owned(),
            }],
            ..Delta::default()
        };
        changes.merge(Changes::take_from(&mut delta));
        assert_eq!(delta, Delta::default());
        assert!(changes.is_whole && changes.parameters.is_some());
        assert_eq!(changes.services[&1], None);
        assert_eq!(changes.services[&2].as_ref().unwrap().name, "renamed");
        assert_eq!(changes.nodes["node-3"], None);
        assert_eq!(changes.routes[&(0, "10.244.3.0/24".to_owned())], None);
    }

    #[test]
    fn whole_state_makes_earlier_changes_moot() {
        let mut changes = Changes::default();
        changes.services.insert(9, None);
        changes.merge(Changes::whole(state()));
        assert_eq!(changes, Changes::whole(state()));
    }
}
