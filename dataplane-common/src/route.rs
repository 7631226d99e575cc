use crate::Address;

/// Pods of another node: encapsulated for it.
pub const ROUTE_PODS: u32 = 1;
/// Another node's own address. Pods' packets are encapsulated for it, so that it sees their own
/// address; the node's own packets are not.
pub const ROUTE_NODE_HOST: u32 = 2;
/// The range of this node's own pods: who is not in `endpoints` does not exist.
pub const ROUTE_LOCAL: u32 = 3;
/// An address of the cluster that no node holds: dropped, never masqueraded.
pub const ROUTE_UNREACHABLE: u32 = 4;

/// What the prefixes of `routes` and `vip_prefixes` are made of. A prefix length counts the 32 bits of
/// the VPC, and 96 more before the bits of an IPv4 prefix: `10.244.2.0/24` is `32 + 96 + 24`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct RouteKey {
    /// The network, in network order, as an LPM trie compares from the first bit on.
    pub vpc_be: u32,
    /// The destination.
    pub address: Address,
}
map_struct!(RouteKey, 20);

impl RouteKey {
    /// Bits of a whole key.
    pub const BITS: u32 = 160;

    /// The length to store a prefix with, given its length as people write it and its family.
    pub const fn prefix_bits(length: u8, is_v4: bool) -> u32 {
        32 + if is_v4 { 96 } else { 0 } + length as u32
    }
}

/// Where packets for a prefix go. What matches no route leaves the cluster.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RouteEntry {
    /// [`ROUTE_PODS`], [`ROUTE_NODE_HOST`], [`ROUTE_LOCAL`] or [`ROUTE_UNREACHABLE`].
    pub kind: u32,
    /// Node slot, for the first two.
    pub node: u32,
}
map_struct!(RouteEntry, 8);
