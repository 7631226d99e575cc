use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use fairlead_api::BackendId;
use fairlead_dataplane_common::{
    Address, Config, NODE_ADJACENT, NODE_RESOLVED, NODE_SERVER, NodeEntry,
};
use ipnetwork::IpNetwork;

use crate::limits::FlowLimits;
use crate::netlink::Mac;
use crate::probing::Target;

/// What this node knows of itself, beside what the control plane sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Its own address on the uplink: where other nodes encapsulate for.
    pub address: IpAddr,
    /// Its address of the other family, if it has one.
    pub other_address: Option<IpAddr>,
    /// The ranges of its pods, one a family, once it has them.
    pub pod_ranges: Vec<IpNetwork>,
    /// What it gives for noting flows.
    pub flow_limits: FlowLimits,
    /// Where packets leave for nodes whose way is not known.
    pub uplink: u32,
    /// Whether that is the only uplink.
    pub has_one_uplink: bool,
    /// Of the uplinks.
    pub mtu: u32,
    /// The ways to other nodes and to machines outside the cluster, as far as they are known; by
    /// their addresses.
    pub ways: HashMap<IpAddr, Way>,
    /// Where frames that are passed on to nodes are proved to arrive; by the nodes' ids.
    pub(crate) proved: HashMap<u32, Target>,
    /// Backends whose time to drain is over: to the programs they are gone.
    pub drained: BTreeSet<BackendId>,
    /// Backends outside the cluster that do not answer this node's health checks: they are gone as
    /// well, until they do.
    pub unhealthy: BTreeSet<BackendId>,
    /// How many connections backends have on other nodes, of services whose scheduler asks.
    pub loads_elsewhere: HashMap<BackendId, u32>,
}

/// The way to another node, or to a machine outside the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The interface it is reached by: an uplink, or a VLAN's interface on one.
    pub interface: u32,
    /// The largest packet it takes: of the route, else of the uplink.
    pub mtu: u32,
    /// Whom frames go to; `None` while the neighbour does not answer.
    pub mac: Option<Mac>,
    /// Whether that is the machine itself, on the uplink's segment, and not a router.
    pub direct: bool,
}

impl Local {
    /// At its address, and perhaps one of the other family, on the interface `uplink`, where packets
    /// of `mtu` bytes fit and which is the only uplink; nothing else is known yet.
    pub fn new(
        (address, other_address): (IpAddr, Option<IpAddr>),
        pod_ranges: Vec<IpNetwork>,
        uplink: u32,
        mtu: u32,
    ) -> Self {
        Self {
            address,
            other_address,
            pod_ranges,
            flow_limits: FlowLimits::default(),
            uplink,
            has_one_uplink: true,
            mtu,
            ways: HashMap::new(),
            proved: HashMap::new(),
            drained: BTreeSet::new(),
            unhealthy: BTreeSet::new(),
            loads_elsewhere: HashMap::new(),
        }
    }

    /// Its IPv4 address, if it has one.
    fn address_v4(&self) -> Option<Address> {
        let addresses = [Some(self.address), self.other_address];
        let mut held = addresses.into_iter().flatten().map(Address::from);
        held.find(Address::is_v4)
    }

    /// Whether a backend is as good as gone.
    pub fn is_lapsed(&self, backend: BackendId) -> bool {
        self.drained.contains(&backend) || self.unhealthy.contains(&backend)
    }

    /// The entry of the node `id` at `address`: by what is known of the way, else by what the map
    /// has held. Frames are passed on to it only where they are proved to arrive.
    pub fn node_entry(&self, id: u32, address: IpAddr, before: Option<&NodeEntry>) -> NodeEntry {
        let way = self.way(address, before);
        let proved = self.proved.get(&id);
        let is_proved = proved
            .is_some_and(|target| target.interface == way.interface && Some(target.mac) == way.mac);
        self.entry(id, address, way)
            .with_adjacent(way.direct && is_proved)
    }

    /// The same of the real server at `address`, which knows no probes. Nobody else is to know it by a
    /// number, so that of its `slot` does.
    pub fn server_entry(
        &self,
        slot: u32,
        address: IpAddr,
        before: Option<&NodeEntry>,
    ) -> NodeEntry {
        let way = self.way(address, before);
        let mut entry = self.entry(slot, address, way).with_adjacent(way.direct);
        entry.flags |= NODE_SERVER;
        entry
    }

    fn way(&self, address: IpAddr, before: Option<&NodeEntry>) -> Way {
        self.ways.get(&address).copied().unwrap_or_else(|| {
            // After a restart the neighbour table has not been read yet: what the last agent found
            // out still holds, and forgetting it would take the node off the fast path.
            let before = before.filter(|entry| entry.address == address.into());
            Way {
                interface: before.map_or(self.uplink, |entry| entry.ifindex),
                mtu: before.map_or(self.mtu, |entry| entry.mtu),
                mac: before
                    .filter(|e| e.flags & NODE_RESOLVED != 0)
                    .map(|e| e.mac),
                direct: before.is_some_and(|e| e.flags & NODE_ADJACENT != 0),
            }
        })
    }

    fn entry(&self, id: u32, address: IpAddr, way: Way) -> NodeEntry {
        NodeEntry::new(
            id,
            address.into(),
            self.address.into(),
            way.interface,
            way.mtu,
            way.mac,
        )
        .by_interface(!self.has_one_uplink || way.interface != self.uplink)
    }

    /// `config` with this node's own facts in it.
    pub fn in_config(&self, config: Config) -> Config {
        let masqueraded = self.pod_ranges.iter().find(|range| range.is_ipv4());
        let (pod_prefix, pod_mask) = match masqueraded {
            Some(range) => (
                range.network().into(),
                Address::mask(96 + u32::from(range.prefix())),
            ),
            None => (Address::UNSPECIFIED, Address::UNSPECIFIED),
        };
        let config = self.flow_limits.in_config(config);
        Config {
            node_address: self.address.into(),
            other_address: self.other_address.unwrap_or(self.address).into(),
            masquerade_word: self.address_v4().map_or(0, |own| own.v4_word()),
            pod_prefix,
            pod_mask,
            uplink_ifindex: self.uplink,
            ..config
        }
    }
}
