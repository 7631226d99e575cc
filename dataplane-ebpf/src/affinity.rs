//! Session affinity: a client's new connections go to the backend it had last.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use fairlead_dataplane_common::{
    Address, AffinityEntry, AffinityKey, BACKEND_ACTIVE, LUT_EMPTY, NODE_LOCAL, ServiceEntry,
};

use crate::maps::{AFFINITY, BACKENDS};

const NS_PER_SECOND: u64 = 1_000_000_000;

/// The slot of the backend that `client` had last, if that was not too long ago and the backend still
/// takes connections, and is on this node if it `is_local` ones that count; else [`LUT_EMPTY`].
#[inline(never)]
pub fn of_client(client: &Address, service: &ServiceEntry, is_local: bool) -> u32 {
    let key = key(client, service);
    let Some(entry) = AFFINITY.get_ptr(&key) else {
        return LUT_EMPTY;
    };
    // SAFETY: the kernel keeps a removed element readable until the program has ended. One that is
    // replaced meanwhile may be seen half-way; then the comparison with the backend's id fails, or
    // the time is that of a moment ago.
    let entry = unsafe { *entry };
    let lasts_ns = u64::from(service.affinity_seconds) * NS_PER_SECOND;
    if now_ns().saturating_sub(entry.seen_ns) >= lasts_ns {
        return LUT_EMPTY;
    }
    match BACKENDS.get(entry.backend_slot) {
        Some(backend)
            if backend.state == BACKEND_ACTIVE
                && backend.id == entry.backend
                && (!is_local || backend.node == NODE_LOCAL) =>
        {
            entry.backend_slot
        }
        _ => LUT_EMPTY,
    }
}

/// Notes which backend a client has.
#[inline(never)]
pub fn note(client: &Address, service: &ServiceEntry, backend_slot: u32, backend: u32) {
    let entry = AffinityEntry {
        seen_ns: now_ns(),
        backend,
        backend_slot,
    };
    let key = key(client, service);
    // An LRU map makes room. If it cannot, the client's next connection goes by its address, as this
    // one did.
    let _ = AFFINITY.insert(&key, &entry, u64::from(BPF_ANY));
}

#[inline(always)]
fn key(client: &Address, service: &ServiceEntry) -> AffinityKey {
    AffinityKey {
        client: *client,
        service: service.id,
    }
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_coarse_ns() }
}
