/// What a backend was sent on one CPU, by the node whose programs picked it: packets where they
/// entered, connections also where sockets of the node itself made them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BackendStats {
    /// Packets from clients.
    pub packets: u64,
    /// Their bytes, with the Ethernet header.
    pub bytes: u64,
    /// Connections begun: SYN packets, flows that were noted, and connects of sockets.
    pub connections: u64,
    /// Its answers to translated flows (nat), where they come back: others do not pass the node that
    /// balances.
    pub answers: u64,
    /// Their bytes, with the Ethernet header.
    pub answer_bytes: u64,
}
map_struct!(BackendStats, 40);

impl BackendStats {
    /// Both together.
    pub const fn plus(self, other: &Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            connections: self.connections + other.connections,
            answers: self.answers + other.answers,
            answer_bytes: self.answer_bytes + other.answer_bytes,
        }
    }
}

/// What a service has seen on one CPU beside what its backends have: what was refused, and what
/// backends that are gone had seen (the agent adds that when it takes their slot away).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServiceStats {
    /// Packets from clients.
    pub packets: u64,
    /// Their bytes, with the Ethernet header.
    pub bytes: u64,
    /// Connections begun.
    pub connections: u64,
    /// Packets, and operations of sockets, dropped after the service was known.
    pub drops: u64,
    /// TCP segments that nobody took, and that were answered with a reset.
    pub resets: u64,
    /// Answers to translated flows.
    pub answers: u64,
    /// Their bytes, with the Ethernet header.
    pub answer_bytes: u64,
}
map_struct!(ServiceStats, 56);

impl ServiceStats {
    /// Both together.
    pub const fn plus(self, other: &Self) -> Self {
        Self {
            drops: self.drops + other.drops,
            resets: self.resets + other.resets,
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            connections: self.connections + other.connections,
            answers: self.answers + other.answers,
            answer_bytes: self.answer_bytes + other.answer_bytes,
        }
    }

    /// With what a backend has seen.
    pub const fn plus_backend(self, backend: &BackendStats) -> Self {
        Self {
            packets: self.packets + backend.packets,
            bytes: self.bytes + backend.bytes,
            connections: self.connections + backend.connections,
            answers: self.answers + backend.answers,
            answer_bytes: self.answer_bytes + backend.answer_bytes,
            ..self
        }
    }
}

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

/// Counts the drops of one service for one reason; the key of `service_drops`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ServiceDropKey {
    /// Service slot.
    pub service: u32,
    /// [`DropReason`](crate::DropReason) as a number.
    pub reason: u32,
}
map_struct!(ServiceDropKey, 8);

/// Bytes of a dropped packet that are kept.
pub const SAMPLE_BYTES: usize = 104;

/// Whose packets, and for what dropped; the key of `drop_samples`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct DropSampleKey {
    /// Service slot and one, 0 of packets whose service was not known yet.
    pub service: u32,
    /// [`DropReason`](crate::DropReason) as a number.
    pub reason: u32,
}
map_struct!(DropSampleKey, 8);

/// The last packet that was dropped for a reason, at most one a jiffy.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropSample {
    /// `bpf_jiffies64` when it was dropped.
    pub seen_jiffies: u64,
    /// Of the whole packet.
    pub length: u32,
    /// How many of `bytes` are the packet's.
    pub captured: u32,
    /// The interface it came in by.
    pub ifindex: u32,
    /// Zero.
    pub padding: u32,
    /// Its beginning, from the Ethernet header on.
    pub bytes: [u8; SAMPLE_BYTES],
}
map_struct!(DropSample, 128);

impl DropSample {
    /// Of no packet yet.
    pub const NONE: Self = Self {
        seen_jiffies: 0,
        length: 0,
        captured: 0,
        ifindex: 0,
        padding: 0,
        bytes: [0; SAMPLE_BYTES],
    };
}
