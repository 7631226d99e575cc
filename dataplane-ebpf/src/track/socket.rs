//! Picks for sockets of this node.

use fairlead_dataplane_common::{
    Address, DropReason, LUT_EMPTY, LUT_SLOT_MASK, SERVICE_AFFINITY, SERVICE_IN_TURN,
    SERVICE_INTERNAL_LOCAL, SERVICE_LEAST_LOAD,
};

use super::query::Found;
use super::table::table_hash;
use crate::maps::{BACKENDS, LUT, SERVICES};
use crate::{affinity, lookup, schedule};

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
