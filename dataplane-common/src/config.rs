use crate::Address;

/// What the programs need to know of the node; the only element of `config`.
///
/// Written whole by the agent. Two writes differ in one byte only ([`Self::bank`]) unless the
/// node's own parameters changed, so a flip of the bank cannot be seen half-way.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Config {
    /// Keys the flow hash; shared by the cluster, unknown outside.
    pub seed: [u64; 2],
    /// The node's own address: where it takes encapsulated packets, and their source when it sends
    /// them. IPv4 is masqueraded as [`Self::address_v4`].
    pub node_address: Address,
    /// The node's address of the other family, `::` if it has none.
    pub other_address: Address,
    /// The range of the pods here that are masqueraded: their IPv4 range, with the host bits clear.
    /// `::` until one was assigned.
    pub pod_prefix: Address,
    /// The mask of that range, see [`Address::mask`].
    pub pod_mask: Address,
    /// This node's id, never 0 once the agent has applied a state.
    pub node_id: u32,
    /// The bank of `frontends` and `services` in force: 0 or 1.
    pub bank: u32,
    /// Where encapsulated packets leave when a node's entry names no uplink.
    pub uplink_ifindex: u32,
    /// UDP port of VXLAN, network order.
    pub vxlan_port_be: u16,
    /// Zero.
    pub padding: u16,
}
map_struct!(Config, 96);

impl Config {
    /// Whether `address` is one of the node's own.
    #[inline(always)]
    pub fn is_own(&self, address: &Address) -> bool {
        *address == self.node_address
            || (*address == self.other_address && !address.is_unspecified())
    }

    /// The node's IPv4 address, if it has one.
    #[inline(always)]
    pub fn address_v4(&self) -> Option<Address> {
        if self.node_address.is_v4() {
            Some(self.node_address)
        } else if self.other_address.is_v4() {
            Some(self.other_address)
        } else {
            None
        }
    }
}

/// What the pinned maps hold, for the agent that adopts them; the only element of `meta`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Meta {
    /// The generation whose state is in force, written after the flip. 0: none yet.
    pub generation: u64,
    /// [`crate::maps::SCHEMA_VERSION`] of whoever created the maps.
    pub schema_version: u32,
    /// Zero.
    pub padding: u32,
}
map_struct!(Meta, 16);
