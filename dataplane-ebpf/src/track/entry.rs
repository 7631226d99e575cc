//! What `flows` says of a flow, and what is entered there.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_jiffies64;
use fairlead_dataplane_common::{
    BACKEND_ACTIVE, BACKEND_EMPTY, BACKEND_SILENT, BackendEntry, ClientPlace, FLOW_CLOSING,
    FLOW_DATAGRAMS, FLOW_ESTABLISHED, FLOW_GUESSED, FLOW_OPENING, LUT_SLOT_MASK, NODE_LOCAL,
    ServiceEntry, TrackEntry, protocol,
};

use super::query::{Found, QUERY_ERROR, QUERY_HANDS_UP, Query};
use crate::header::Tcp;
use crate::lookup;
use crate::maps::{BACKENDS, FLOWS};

/// Where a flow's entry leads.
pub(super) enum Followed {
    /// To this backend.
    To(Found),
    /// To a backend that is gone, and with it the connection.
    Gone,
    /// There is no entry, or none that holds for this packet.
    Nowhere,
}

#[inline(always)]
pub(super) fn follow(query: &mut Query, service: &ServiceEntry) -> Followed {
    let Some(entry) = FLOWS.get_ptr_mut(&query.key) else {
        return Followed::Nowhere;
    };
    // SAFETY: the kernel keeps a removed element readable until the program has ended. Two CPUs that
    // meet here may lose a count or a step of the state, which the next packet makes up for.
    let entry = unsafe { &mut *entry };
    if entry.flow.difference(&query.flow) != 0 {
        query.leave_to_another();
        return Followed::Nowhere;
    }
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
        let _ = FLOWS.remove(&query.key);
    }
    Followed::Gone
}

/// Takes out an entry of a flow that is over, where the packet begins another with the same ports: if
/// that is not noted, as at a settling slot, its next packets must not find the old one.
#[inline(always)]
fn forget(query: &Query) -> Followed {
    if query.may_note() && !query.is_midway() {
        // If it is gone already, another CPU was faster.
        let _ = FLOWS.remove(&query.key);
    }
    Followed::Nowhere
}

/// Notes on an entry that a packet has met it.
#[inline(always)]
pub fn met(entry: &mut TrackEntry, query: &Query) {
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

/// Enters a flow; false if there is no room.
#[inline(always)]
pub(super) fn note(
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
        place: ClientPlace::default(),
        flow: query.flow,
        padding: 0,
    };
    FLOWS
        .insert(&query.key, &query.entry, u64::from(BPF_ANY))
        .is_ok()
}

/// Whether the next hook will count the packet.
#[inline(always)]
pub(super) fn is_handed_up(query: &Query, backend: &BackendEntry) -> bool {
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
