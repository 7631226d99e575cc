//! Picks that one read of the table does not settle: table slots that have changed hands, services
//! whose flows are all noted, and services that not everybody may use.
//!
//! All of it is called, not inlined: what a packet of a plain service at a stable slot costs does not
//! depend on it. A subprogram takes a pointer and returns a number, so a [`Query`] carries both the
//! question and the pick.

mod entry;
mod query;
mod socket;
mod table;

use fairlead_dataplane_common::{
    BACKEND_EMPTY, Counter, DropReason, LUT_EMPTY, LUT_MOVING, LUT_STABLE, SERVICE_AFFINITY,
    SERVICE_EXTERNAL_LOCAL, SERVICE_IN_TURN, SERVICE_LEAST_LOAD, SERVICE_SOURCE_RANGES,
    ServiceEntry, protocol,
};

pub use self::entry::met;
use self::entry::{Followed, follow, is_handed_up, note};
pub use self::query::{Found, QUERY_ERROR, QUERY_HANDS_UP, QUERY_PASSED_ON, QUERY_VIP, Query};
pub use self::socket::{SocketQuery, answer_socket};
use self::table::is_here;
pub use self::table::{TableSlot, former, presumed, table_hash, table_slot};
use crate::maps::{BACKENDS, SERVICES};
use crate::{affinity, lookup, noting, pick, schedule, stats};

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

/// Picks for a flow without an entry and notes the pick, where the service or the slot asks for it.
#[inline(always)]
fn begin(query: &mut Query, service: &ServiceEntry, slot: &TableSlot, hash: u32) -> Found {
    let is_moving = slot.state == LUT_MOVING;
    let is_noted = query.is_noted(service) || is_moving;
    // Where the flow's packets go as long as nothing is noted of it.
    let unnoted = if query.flow.protocol == protocol::TCP {
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
