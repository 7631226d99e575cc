use crate::Address;

/// One direction of a flow, exactly as its packets are; the key of `replies`, `newcomers`, `snat_out` and
/// `snat_in`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowKey {
    /// Who sends.
    pub source: Address,
    /// Who receives.
    pub destination: Address,
    /// The network both addresses belong to.
    pub vpc: u32,
    /// Network order. For ICMP echo: the identifier, in both ports.
    pub source_port_be: u16,
    /// Network order.
    pub destination_port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub padding: [u8; 3],
}
map_struct!(FlowKey, 44);

impl FlowKey {
    /// Zero if `other` is the same flow. No bit of it means anything else.
    #[inline(always)]
    pub const fn difference(&self, other: &Self) -> u32 {
        let ports = self.source_port_be ^ other.source_port_be
            | self.destination_port_be ^ other.destination_port_be;
        self.source.difference(&other.source)
            | self.destination.difference(&other.destination)
            | self.vpc ^ other.vpc
            | ports as u32
            | (self.protocol ^ other.protocol) as u32
    }
}

/// What becomes of one end of a flow's packets, and how many there were.
///
/// | map | key: the packet as | replaced | by |
/// |---|---|---|---|
/// | `replies`, `newcomers` | a pod answers a client | source | the VIP and its port |
/// | `snat_out` | a pod sends it to the outside | source | the node's address and a port of ours |
/// | `snat_in` | the outside answers | destination | the pod's address and port |
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowEntry {
    /// The address to put in.
    pub address: Address,
    /// The port to put in, network order.
    pub port_be: u16,
    /// Zero.
    pub padding: u16,
    /// `BackendId` the flow belongs to in `replies` and `newcomers`, else 0.
    pub backend: u32,
    /// `bpf_jiffies64` of the last packet that met this entry.
    pub seen_jiffies: u64,
    /// Packets that met it.
    pub packets: u64,
    /// Their bytes, with the Ethernet header.
    pub bytes: u64,
}
map_struct!(FlowEntry, 48);
