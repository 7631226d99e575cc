use crate::Address;

/// Finds a pod of this node by its address; the key of `endpoints`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct EndpointKey {
    /// The pod's address.
    pub address: Address,
    /// The network it belongs to.
    pub vpc: u32,
}
map_struct!(EndpointKey, 20);

/// How a pod of this node is reached.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EndpointEntry {
    /// The host's end of the pod's veth pair.
    pub ifindex: u32,
    /// Of the pod's own end.
    pub mac: [u8; 6],
    /// None defined.
    pub flags: u16,
}
map_struct!(EndpointEntry, 12);

/// Who is behind a veth pair; `pods` finds it by the ifindex of the host's end.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PodEntry {
    /// The only source address the pod may use.
    pub address: Address,
    /// The network it belongs to.
    pub vpc: u32,
    /// None defined.
    pub flags: u32,
}
map_struct!(PodEntry, 24);
