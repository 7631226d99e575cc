//! Picks that one read of the table does not settle: table slots that have changed hands, services
//! whose flows are all noted, and services that not everybody may use.
//!
//! All of it is called, not inlined: what a packet of a plain service at a stable slot costs does not
//! depend on it. A subprogram takes a pointer and returns a number, so a [`Query`] carries both the
//! question and the pick.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_jiffies64;
use fairlead_dataplane_common::{
    Address, BACKEND_ACTIVE, BACKEND_EMPTY, BACKEND_SILENT, BackendEntry, Config, Counter,
    DropReason, FLOW_CLOSING, FLOW_DATAGRAMS, FLOW_ESTABLISHED, FLOW_GUESSED, FLOW_OPENING,
    FRONTEND_NODE_PORT, FlowKey, LUT_EMPTY, LUT_MOVING, LUT_SLOT_MASK, LUT_STABLE, LUT_STATE_MASK,
    NODE_LOCAL, SERVICE_AFFINITY, SERVICE_DESTINATION_HASH, SERVICE_EXTERNAL_LOCAL,
    SERVICE_IN_TURN, SERVICE_INTERNAL_LOCAL, SERVICE_LEAST_LOAD, SERVICE_NAT, SERVICE_NOTED,
    SERVICE_SERVERS, SERVICE_SOURCE_HASH, SERVICE_SOURCE_RANGES, ServiceEntry, TrackEntry, hash,
    protocol,
};

use crate::header::Tcp;
use crate::maps::{BACKENDS, FLOWS, LUT, SERVICES};
use crate::{affinity, lookup, noting, pick, schedule, stats};

/// The packet is no packet of the flow but an ICMP error about one: it follows, and leaves no trace.
pub const QUERY_ERROR: u32 = 1;
/// The packet is for an address that source ranges hold for: a VIP, not a node port.
pub const QUERY_VIP: u32 = 1 << 1;
/// The next hook gets the packet if this one cannot finish it, and will ask again.
pub const QUERY_HANDS_UP: u32 = 1 << 2;
/// Another node passed the packet on and has chosen already: the table alone says for whom.
pub const QUERY_PASSED_ON: u32 = 1 << 3;

/// A packet of a known flow and, in the end, the backend it is for. It is kept in a map of its own:
/// the stack has no room for it.
#[repr(C)]
pub struct Query {
    /// The flow, client → VIP.
    pub flow: FlowKey,
    /// Of the flow.
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
    entry: TrackEntry,
}

/// What came of a [`Query`], in one register: a subprogram returns no more, and what is live while a
/// packet is sent is spilled to the stack.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Found(u64);

impl Found {
    /// The packet begins a connection or a flow of datagrams.
    const BEGINS: u64 = 1 << 24;
    /// Not every node would pick this backend by the table alone.
    const IS_PRIVATE: u64 = 1 << 25;
    /// The packet asked at a node port.
    const AT_NODE_PORT: u64 = 1 << 26;
    /// Where the port stands that the flow is translated to.
    const NAT_PORT_SHIFT: u32 = 32;
    /// Where the reason for a refusal stands.
    const REASON_SHIFT: u32 = 48;

    /// Nobody takes the packet: the service has no backend, or the connection's is gone.
    const NOBODY: Self = Self(LUT_EMPTY as u64);

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
    const fn refused(reason: DropReason) -> Self {
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
    fn or_nobody(self, service: &ServiceEntry) -> Self {
        if self.0 & u64::from(LUT_SLOT_MASK) | self.0 >> Self::REASON_SHIFT == 0 {
            nobody(service)
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
    pub fn ask(&mut self, flow: &FlowKey, hash: u32, service_index: u32) {
        self.flow = *flow;
        self.hash = hash;
        self.service_index = service_index;
    }

    #[inline(always)]
    fn has(&self, one: u32) -> bool {
        self.traits & one != 0
    }

    /// Whether the packet begins a TCP connection.
    #[inline(always)]
    fn opens(&self) -> bool {
        self.tcp_flags as u8 & (Tcp::SYN | Tcp::ACK) == Tcp::SYN
    }

    /// Whether the packet's connection may be older than what is known of it here.
    #[inline(always)]
    fn is_midway(&self) -> bool {
        self.flow.protocol == protocol::TCP && !self.opens()
    }

    /// Whether every flow like this one is noted, whatever its table slot's state.
    #[inline(always)]
    fn is_noted(&self, service: &ServiceEntry) -> bool {
        service.flags & SERVICE_NOTED != 0 || self.may_be_translated(service)
    }

    /// Whether the packet's backend may be one that it is translated for, see [`SERVICE_SERVERS`].
    #[inline(always)]
    fn may_be_translated(&self, service: &ServiceEntry) -> bool {
        service.flags & SERVICE_NAT != 0
            || service.flags & SERVICE_SERVERS != 0 && !self.has(QUERY_VIP)
    }

    /// Whether the packet may leave an entry: nothing is noted on the word of an error or a reset.
    #[inline(always)]
    fn may_note(&self) -> bool {
        !self.has(QUERY_ERROR) && self.tcp_flags as u8 & Tcp::RST == 0
    }
}

/// What the table says of a flow.
pub struct TableSlot {
    /// Slot of the backend it names.
    pub current: u32,
    /// Slot of the backend that had it before; [`LUT_EMPTY`] if that is gone, or nothing has moved.
    pub base: u32,
    /// Its state: [`LUT_STABLE`], [`LUT_MOVING`] or `LUT_SETTLING`.
    pub state: u32,
}

/// Answers the query that was put together for this CPU, by a [`Found`].
#[inline(never)]
#[unsafe(export_name = "track_answer")]
pub extern "C" fn answer() -> u64 {
    pick::query().map_or(Found::NOBODY, find).0
}

#[inline(always)]
fn find(query: &mut Query) -> Found {
    let (Ok(config), Some(service)) = (lookup::config(), SERVICES.get(query.service_index)) else {
        return Found::NOBODY;
    };
    if service.flags & SERVICE_SOURCE_RANGES != 0
        && query.traits & (QUERY_VIP | QUERY_PASSED_ON) == QUERY_VIP
        && !lookup::is_source_allowed(service.id, &query.flow.source)
    {
        return Found::refused(DropReason::SourceNotAllowed);
    }
    let flow = &query.flow;
    let (source, destination) = (&flow.source, &flow.destination);
    let hash = table_hash(config, service, flow.vpc, source, destination, query.hash);
    let Some(slot) = table_slot(service, hash) else {
        return nobody(service);
    };
    if !query.is_noted(service) && slot.state == LUT_STABLE {
        return Found::plain(slot.current, query.opens()).or_nobody(service);
    }
    if query.has(QUERY_PASSED_ON) {
        // The node that sent it may know a state that is older or newer.
        let owner = if !is_here(slot.current) && is_here(slot.base) {
            slot.base
        } else {
            slot.current
        };
        return Found::plain(owner, query.opens());
    }
    let mut found = match follow(query, service) {
        Followed::To(found) => found,
        Followed::Gone => return Found::NOBODY,
        Followed::Nowhere => begin(query, service, &slot, hash).or_nobody(service),
    };
    // The backend's node may hold a newer table, by which it would not know a flow that is noted here.
    found.0 |= Found::IS_PRIVATE;
    found
}

/// What becomes of a packet for a service that has no backend for it. With `SERVICE_EXTERNAL_LOCAL`
/// others may be on other nodes, and the client is not told that there are none.
#[inline(always)]
fn nobody(service: &ServiceEntry) -> Found {
    if service.flags & SERVICE_EXTERNAL_LOCAL != 0 && service.lut_length != 0 {
        Found::refused(DropReason::NoLocalBackend)
    } else {
        Found::NOBODY
    }
}

/// Whether a slot holds a backend of this node.
#[inline(always)]
fn is_here(backend_slot: u32) -> bool {
    let backend = BACKENDS.get(backend_slot);
    backend.is_some_and(|backend| backend.state != BACKEND_EMPTY && backend.node == NODE_LOCAL)
}

/// A socket of this node that asks for a service.
#[repr(C)]
pub struct SocketQuery {
    /// Who asks: a network namespace, in the form of an address.
    pub client: Address,
    /// The address that is asked for.
    pub asked: Address,
    /// Of the socket and what it asks for.
    pub hash: u32,
    /// Of the service, in `services`.
    pub service_index: u32,
    /// 1 if the socket connects; else every datagram asks anew, and must not take a turn of its own.
    pub connects: u32,
}

/// Answers a socket's query. Sockets stay with what they were given, so nothing is noted of them but
/// their namespace's affinity.
#[inline(never)]
pub fn answer_socket(query: &SocketQuery) -> Found {
    let (Ok(config), Some(service)) = (lookup::config(), SERVICES.get(query.service_index)) else {
        return Found::refused(DropReason::NoBackend);
    };
    let is_local = service.flags & SERVICE_INTERNAL_LOCAL != 0;
    let hash = table_hash(config, service, 0, &query.client, &query.asked, query.hash);
    let index = if is_local {
        service.local_index(hash)
    } else {
        service.lut_index(hash)
    };
    let Some(element) = index.and_then(|index| LUT.get(index)) else {
        return Found::refused(if is_local {
            DropReason::NoLocalBackend
        } else {
            DropReason::NoBackend
        });
    };
    let mut picked = LUT_EMPTY;
    if service.flags & SERVICE_AFFINITY != 0 {
        picked = affinity::of_client(&query.client, service, is_local);
    }
    let is_scheduled = service.flags & (SERVICE_IN_TURN | SERVICE_LEAST_LOAD) != 0;
    if picked == LUT_EMPTY && is_scheduled && query.connects != 0 {
        picked = schedule::next(query.service_index, hash, is_local.into());
    }
    if picked == LUT_EMPTY {
        picked = *element & LUT_SLOT_MASK;
    }
    if service.flags & SERVICE_AFFINITY != 0
        && let Some(backend) = BACKENDS.get(picked)
    {
        affinity::note(&query.client, service, picked, backend.id);
    }
    Found::plain(picked, true)
}

/// The hash that finds the table slot of what has `of_flow` itself.
#[inline(always)]
pub fn table_hash(
    config: &Config,
    service: &ServiceEntry,
    vpc: u32,
    source: &Address,
    destination: &Address,
    of_flow: u32,
) -> u32 {
    if service.flags & (SERVICE_SOURCE_HASH | SERVICE_AFFINITY) != 0 {
        hash::source(&config.seed, vpc, source)
    } else if service.flags & SERVICE_DESTINATION_HASH != 0 {
        hash::destination(&config.seed, vpc, destination)
    } else {
        of_flow
    }
}

/// The table slot that a hash points at.
#[inline(always)]
pub fn table_slot(service: &ServiceEntry, hash: u32) -> Option<TableSlot> {
    let index = if service.flags & SERVICE_EXTERNAL_LOCAL != 0 {
        service.local_index(hash)?
    } else {
        service.lut_index(hash)?
    };
    let element = *LUT.get(index)?;
    let state = element & LUT_STATE_MASK;
    let base = if state == LUT_STABLE {
        LUT_EMPTY
    } else {
        base(service, hash)
    };
    Some(TableSlot {
        current: element & LUT_SLOT_MASK,
        base,
        state,
    })
}

/// Slot of the backend that had a hash before slots began to move, [`LUT_EMPTY`] if it is gone.
#[inline(always)]
fn base(service: &ServiceEntry, hash: u32) -> u32 {
    let Some(element) = service.base_index(hash).and_then(|index| LUT.get(index)) else {
        return LUT_EMPTY;
    };
    let slot = *element & LUT_SLOT_MASK;
    match BACKENDS.get(slot) {
        Some(backend) if backend.state != BACKEND_EMPTY => slot,
        _ => LUT_EMPTY,
    }
}

/// Where a flow's entry leads.
enum Followed {
    /// To this backend.
    To(Found),
    /// To a backend that is gone, and with it the connection.
    Gone,
    /// There is no entry, or none that holds for this packet.
    Nowhere,
}

#[inline(always)]
fn follow(query: &mut Query, service: &ServiceEntry) -> Followed {
    let Some(entry) = FLOWS.get_ptr_mut(&query.flow) else {
        return Followed::Nowhere;
    };
    // SAFETY: the kernel keeps a removed element readable until the program has ended. Two CPUs that
    // meet here may lose a count or a step of the state, which the next packet makes up for.
    let entry = unsafe { &mut *entry };
    if entry.service != service.id {
        return forget(query);
    }
    let backend = match BACKENDS.get(entry.backend_slot) {
        Some(backend) if backend.state != BACKEND_EMPTY && backend.id == entry.backend => backend,
        _ => return gone(query),
    };
    // A SYN sent again follows; one that uses an old connection's ports anew begins anew.
    if query.opens() && (entry.state == FLOW_CLOSING || backend.state != BACKEND_ACTIVE) {
        return forget(query);
    }
    // A guess at who may be dead by now is made anew; what was seen from its SYN is no guess.
    if entry.flags & FLOW_GUESSED != 0 && backend.flags & BACKEND_SILENT != 0 {
        return Followed::Nowhere;
    }
    let mut begins = query.opens();
    if !query.has(QUERY_ERROR) && !is_handed_up(query, backend) {
        begins |= entry.state == FLOW_DATAGRAMS && entry.packets == 0;
        met(entry, query);
    }
    let mut found = Found::plain(entry.backend_slot & LUT_SLOT_MASK, begins);
    found.0 |= u64::from(entry.nat_port_be) << Found::NAT_PORT_SHIFT;
    Followed::To(found)
}

/// What becomes of a packet whose entry names a backend that is gone. The entry stays until a sweep
/// takes it: the answer to this packet may be lost, and the next has to be answered as well.
#[inline(always)]
fn gone(query: &Query) -> Followed {
    if query.has(QUERY_ERROR) || !query.is_midway() {
        return forget(query);
    }
    if query.tcp_flags as u8 & Tcp::RST != 0 {
        // The client has given it up by itself. If it is gone already, another CPU was faster.
        let _ = FLOWS.remove(&query.flow);
    }
    Followed::Gone
}

/// Takes out an entry of a flow that is over, where the packet begins another with the same ports: if
/// that is not noted, as at a settling slot, its next packets must not find the old one.
#[inline(always)]
fn forget(query: &Query) -> Followed {
    if query.may_note() && !query.is_midway() {
        // If it is gone already, another CPU was faster.
        let _ = FLOWS.remove(&query.flow);
    }
    Followed::Nowhere
}

/// Notes on an entry that a packet has met it.
#[inline(always)]
fn met(entry: &mut TrackEntry, query: &Query) {
    let flags = query.tcp_flags as u8;
    if flags & (Tcp::FIN | Tcp::RST) != 0 {
        entry.state = FLOW_CLOSING;
    } else if entry.state == FLOW_OPENING && query.is_midway() {
        entry.state = FLOW_ESTABLISHED;
    }
    // SAFETY: takes nothing.
    entry.seen_jiffies = unsafe { bpf_jiffies64() };
    entry.packets += 1;
    entry.bytes += u64::from(query.bytes);
}

/// Picks for a flow without an entry and notes the pick, where the service or the slot asks for it.
#[inline(always)]
fn begin(query: &mut Query, service: &ServiceEntry, slot: &TableSlot, hash: u32) -> Found {
    let is_moving = slot.state == LUT_MOVING;
    let is_noted = query.is_noted(service) || is_moving;
    // Where the flow's packets go as long as nothing is noted of it.
    let unnoted = if is_moving && query.flow.protocol == protocol::TCP {
        presumed(slot)
    } else {
        slot.current
    };
    if !is_noted {
        return Found::plain(slot.current, query.opens());
    }
    if !query.may_note() {
        return Found::plain(unnoted, query.opens());
    }
    if !noting::is_admitted(query.service_index) {
        return if !query.may_be_translated(service) {
            Found::plain(unnoted, query.opens())
        } else {
            // Each translation takes an entry of `nat` as well, and a flood would have them all.
            Found::refused(DropReason::NatExhausted)
        };
    }
    let is_local = service.flags & SERVICE_EXTERNAL_LOCAL != 0;
    let mut picked = LUT_EMPTY;
    if service.flags & SERVICE_AFFINITY != 0 {
        picked = affinity::of_client(&query.flow.source, service, is_local);
    }
    if picked == LUT_EMPTY && service.flags & (SERVICE_IN_TURN | SERVICE_LEAST_LOAD) != 0 {
        picked = schedule::next(query.service_index, hash, is_local.into());
    }
    if picked == LUT_EMPTY {
        picked = if query.is_midway() {
            unnoted
        } else {
            slot.current
        };
    }
    let backend = match BACKENDS.get(picked) {
        Some(backend) if backend.state != BACKEND_EMPTY => backend,
        // Nothing is noted of flows that nobody takes.
        _ => return Found::NOBODY,
    };
    let begins =
        query.opens() || query.flow.protocol != protocol::TCP && !is_handed_up(query, backend);
    if !note(query, service, picked, backend) {
        stats::count(Counter::FlowTableFull);
        return Found::plain(unnoted, query.opens());
    }
    noting::count(query.service_index);
    if service.flags & SERVICE_LEAST_LOAD != 0 {
        schedule::took_one(picked);
    }
    if service.flags & SERVICE_AFFINITY != 0 {
        affinity::note(&query.flow.source, service, picked, backend.id);
    }
    Found::plain(picked, begins)
}

/// Slot of the backend that a connection of which nothing is noted is taken for at a moving slot. If it
/// is old it is the base's; but where that may be dead, and the slot's owner is not, the owner is
/// asked first, and its node passes on what is unknown there.
#[inline(always)]
fn presumed(slot: &TableSlot) -> u32 {
    if slot.base == LUT_EMPTY || is_silent(slot.base) && !is_silent(slot.current) {
        slot.current
    } else {
        slot.base
    }
}

/// Whether a slot holds a backend whose node has fallen silent.
#[inline(always)]
fn is_silent(backend_slot: u32) -> bool {
    let backend = BACKENDS.get(backend_slot);
    backend.is_some_and(|backend| backend.flags & BACKEND_SILENT != 0)
}

/// Enters a flow; false if there is no room.
#[inline(always)]
fn note(
    query: &mut Query,
    service: &ServiceEntry,
    backend_slot: u32,
    backend: &BackendEntry,
) -> bool {
    let state = if query.flow.protocol != protocol::TCP {
        FLOW_DATAGRAMS
    } else if query.opens() {
        FLOW_OPENING
    } else if query.tcp_flags as u8 & Tcp::FIN != 0 {
        FLOW_CLOSING
    } else {
        FLOW_ESTABLISHED
    };
    let is_counted = !is_handed_up(query, backend);
    query.entry = TrackEntry {
        backend: backend.id,
        backend_slot,
        service: service.id,
        state,
        flags: if query.is_midway() { FLOW_GUESSED } else { 0 },
        nat_port_be: 0,
        // SAFETY: takes nothing.
        seen_jiffies: unsafe { bpf_jiffies64() },
        packets: is_counted.into(),
        bytes: if is_counted { query.bytes.into() } else { 0 },
    };
    FLOWS
        .insert(&query.flow, &query.entry, u64::from(BPF_ANY))
        .is_ok()
}

/// Whether the next hook will count the packet.
#[inline(always)]
fn is_handed_up(query: &Query, backend: &BackendEntry) -> bool {
    if !query.has(QUERY_HANDS_UP) {
        return false;
    }
    if backend.node == NODE_LOCAL {
        return true;
    }
    match lookup::node(backend.node) {
        Some(node) => !node.takes_from(query.ifindex),
        None => true,
    }
}
