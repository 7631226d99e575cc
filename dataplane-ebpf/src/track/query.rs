//! What is asked about a packet, and what is answered.

use fairlead_dataplane_common::{
    DropReason, FRONTEND_NODE_PORT, FlowKey, LUT_EMPTY, LUT_SLOT_MASK, SERVICE_NAT, SERVICE_NOTED,
    SERVICE_SERVERS, ServiceEntry, TrackEntry, hash, protocol,
};

use crate::header::Tcp;

/// The packet is no packet of the flow but an ICMP error about one: it follows, and leaves no trace.
pub const QUERY_ERROR: u32 = 1;
/// The packet is for an address that source ranges hold for: a VIP, not a node port.
pub const QUERY_VIP: u32 = 1 << 1;
/// The next hook gets the packet if this one cannot finish it, and will ask again.
pub const QUERY_HANDS_UP: u32 = 1 << 2;
/// Another node passed the packet on and has chosen already: the table alone says for whom.
pub const QUERY_PASSED_ON: u32 = 1 << 3;

/// The entry that would be the flow's is another's.
const QUERY_TAKEN: u32 = 1 << 4;

/// A packet of a known flow and, in the end, the backend it is for. It is kept in a map of its own:
/// the stack has no room for it.
#[repr(C)]
pub struct Query {
    /// [`hash::wide`] of the flow: its key in `flows`.
    pub key: u64,
    /// The flow, client → VIP.
    pub flow: FlowKey,
    /// Of the flow, [`hash::narrow`].
    pub hash: u32,
    /// Of the service, in `services`.
    pub service_index: u32,
    /// The packet's bytes.
    pub bytes: u32,
    /// `QUERY_*`.
    pub traits: u32,
    /// The flags of its TCP header, 0 if it has none.
    pub tcp_flags: u32,
    /// The interface that the packet came in by.
    pub ifindex: u32,
    /// What was picked, for a later stage: see [`pick::keep`].
    pub found: Found,
    /// Room for the entry that notes the flow.
    pub(super) entry: TrackEntry,
}

/// What came of a [`Query`], in one register: a subprogram returns no more, and what is live while a
/// packet is sent is spilled to the stack.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Found(pub(super) u64);

impl Found {
    /// The packet begins a connection or a flow of datagrams.
    const BEGINS: u64 = 1 << 24;
    /// Not every node would pick this backend by the table alone.
    pub(super) const IS_PRIVATE: u64 = 1 << 25;
    /// The packet asked at a node port.
    const AT_NODE_PORT: u64 = 1 << 26;
    /// Where the port stands that the flow is translated to.
    pub(super) const NAT_PORT_SHIFT: u32 = 32;
    /// Where the reason for a refusal stands.
    const REASON_SHIFT: u32 = 48;

    /// Nobody takes the packet: the service has no backend, or the connection's is gone.
    pub(super) const NOBODY: Self = Self(LUT_EMPTY as u64);

    /// The backend in slot `backend_slot`, for a packet that `begins` something or does not.
    #[inline(always)]
    pub fn plain(backend_slot: u32, begins: bool) -> Self {
        Self(u64::from(backend_slot) | if begins { Self::BEGINS } else { 0 })
    }

    /// What [`answer`] said.
    #[inline(always)]
    pub fn of(answer: u64) -> Self {
        Self(answer)
    }

    #[inline(always)]
    pub(super) const fn refused(reason: DropReason) -> Self {
        Self((reason as u64) << Self::REASON_SHIFT)
    }

    /// The same for a packet that asked at a frontend with `flags`.
    #[inline(always)]
    pub fn asked_at(self, flags: u32) -> Self {
        const SHIFT: u32 =
            Found::AT_NODE_PORT.trailing_zeros() - FRONTEND_NODE_PORT.trailing_zeros();
        Self(self.0 | u64::from(flags & FRONTEND_NODE_PORT) << SHIFT)
    }

    /// Slot of the backend.
    #[inline(always)]
    pub fn backend_slot(self) -> u32 {
        self.0 as u32 & LUT_SLOT_MASK
    }

    /// Whether the packet begins a connection or a flow of datagrams.
    #[inline(always)]
    pub fn begins(self) -> bool {
        self.0 & Self::BEGINS != 0
    }

    /// Whether every node would pick the same by the table alone. Only then a frame may be passed on as
    /// it is to a node of ours; else it has to name the backend. A node port is at an address that other
    /// nodes have no frontend for: they cannot make the pick again.
    #[inline(always)]
    pub fn is_agreed(self) -> bool {
        self.0 & (Self::IS_PRIVATE | Self::AT_NODE_PORT) == 0
    }

    /// Whether the packet asked at a node port.
    #[inline(always)]
    pub fn is_at_node_port(self) -> bool {
        self.0 & Self::AT_NODE_PORT != 0
    }

    /// The same, unless it names no backend.
    #[inline(always)]
    pub(super) fn or_nobody(self, service: &ServiceEntry) -> Self {
        if self.0 & u64::from(LUT_SLOT_MASK) | self.0 >> Self::REASON_SHIFT == 0 {
            super::nobody(service)
        } else {
            self
        }
    }

    /// [`TrackEntry::nat_port_be`] of the flow: 0 if nothing is known yet.
    #[inline(always)]
    pub fn nat_port_be(self) -> u16 {
        (self.0 >> Self::NAT_PORT_SHIFT) as u16
    }

    /// Why there is no pick, if there is none.
    #[inline(always)]
    pub fn refusal(self) -> Result<(), DropReason> {
        match (self.0 >> Self::REASON_SHIFT) as u32 {
            0 => Ok(()),
            Self::NO_LOCAL_BACKEND => Err(DropReason::NoLocalBackend),
            Self::SOURCE_NOT_ALLOWED => Err(DropReason::SourceNotAllowed),
            Self::NAT_EXHAUSTED => Err(DropReason::NatExhausted),
            _ => Err(DropReason::NoBackend),
        }
    }

    const NO_LOCAL_BACKEND: u32 = DropReason::NoLocalBackend as u32;
    const SOURCE_NOT_ALLOWED: u32 = DropReason::SourceNotAllowed as u32;
    const NAT_EXHAUSTED: u32 = DropReason::NatExhausted as u32;
}

impl Query {
    /// Puts a query in place of the last one. What an answer does not depend on is left as it was.
    #[inline(always)]
    pub fn ask(&mut self, flow: &FlowKey, wide_hash: u64, service_index: u32) {
        self.flow = *flow;
        self.key = wide_hash;
        self.hash = hash::narrow(wide_hash);
        self.service_index = service_index;
    }

    #[inline(always)]
    pub(super) fn has(&self, one: u32) -> bool {
        self.traits & one != 0
    }

    /// Whether the packet begins a TCP connection.
    #[inline(always)]
    pub(super) fn opens(&self) -> bool {
        self.tcp_flags as u8 & (Tcp::SYN | Tcp::ACK) == Tcp::SYN
    }

    /// Whether the packet's connection may be older than what is known of it here.
    #[inline(always)]
    pub(super) fn is_midway(&self) -> bool {
        self.flow.protocol == protocol::TCP && !self.opens()
    }

    /// Whether every flow like this one is noted, whatever its table slot's state.
    #[inline(always)]
    pub(super) fn is_noted(&self, service: &ServiceEntry) -> bool {
        service.flags & SERVICE_NOTED != 0 || self.may_be_translated(service)
    }

    /// Whether the packet's backend may be one that it is translated for, see [`SERVICE_SERVERS`].
    #[inline(always)]
    pub(super) fn may_be_translated(&self, service: &ServiceEntry) -> bool {
        service.flags & SERVICE_NAT != 0
            || service.flags & SERVICE_SERVERS != 0 && !self.has(QUERY_VIP)
    }

    /// Says that the entry of the flow's hash is another flow's: neither to be followed nor to be replaced.
    #[inline(always)]
    pub(super) fn leave_to_another(&mut self) {
        self.traits |= QUERY_TAKEN;
    }

    /// Whether the packet may leave an entry: nothing is noted on the word of an error or a reset.
    #[inline(always)]
    pub(super) fn may_note(&self) -> bool {
        !self.has(QUERY_ERROR | QUERY_TAKEN) && self.tcp_flags as u8 & Tcp::RST == 0
    }
}
