/// What a service has seen on one CPU, at the node its packets entered by (or, for connections made
/// by sockets of the node itself, where those are).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServiceStats {
    /// Packets from clients.
    pub packets: u64,
    /// Their bytes, with the Ethernet header.
    pub bytes: u64,
    /// TCP connections begun: SYN packets, and connects of sockets.
    pub connections: u64,
    /// Packets dropped after the service was known.
    pub drops: u64,
}
map_struct!(ServiceStats, 32);

/// What was dropped for one reason on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DropStats {
    /// Packets, or operations of sockets.
    pub packets: u64,
    /// Their bytes, with the Ethernet header.
    pub bytes: u64,
}
map_struct!(DropStats, 16);
