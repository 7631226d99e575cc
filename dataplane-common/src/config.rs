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
    /// them.
    pub node_address: Address,
    /// The node's address of the other family; the same one again if it has none.
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
    /// Percent of what the other services leave of `flows` that one service may fill, and of the notes
    /// of a moment that it may make, see [`noting`](crate::noting). 0: all of it.
    pub service_share_percent: u8,
    /// 1 if there is anything in `vip_prefixes`, else 0: then nobody looks there.
    pub has_vip_prefixes: u8,
    /// The node's IPv4 address, as whom pods are masqueraded, as the word it is on the wire; 0 if it
    /// has none.
    pub masquerade_word: u32,
    /// Flows that are noted in [`noting::WINDOW_NS`](crate::noting::WINDOW_NS) at most. 0: as many as
    /// come.
    pub notes_per_window: u32,
}
map_struct!(Config, 104);

impl Config {
    /// Whether `address` is one of the node's own.
    ///
    /// Written without `||` and `==` of addresses: each would be a fork for the verifier, and all
    /// that follows would be looked at once more for each.
    #[inline(always)]
    pub const fn is_own(&self, address: &Address) -> bool {
        let first = self.node_address.difference(address) as u64;
        let second = self.other_address.difference(address) as u64;
        first * second == 0
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

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn node_knows_both_its_addresses_and_no_other() {
        let v4 = Address::from(Ipv4Addr::new(198, 18, 0, 101));
        let v6 = Address::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x101));
        let config = |node_address, other_address| Config {
            node_address,
            other_address,
            ..Config::default()
        };
        let strangers = [
            Address::UNSPECIFIED,
            Ipv4Addr::new(198, 18, 0, 100).into(),
            Ipv6Addr::new(0x3001, 0xdb8, 0, 0, 0, 0, 0, 0x101).into(),
        ];
        for both in [config(v4, v6), config(v6, v4)] {
            assert!(both.is_own(&v4) && both.is_own(&v6));
            assert!(!strangers.iter().any(|stranger| both.is_own(stranger)));
        }
        assert!(!config(v4, v4).is_own(&v6));
    }
}
