//! Counting what backends see, and what is no drop.

use fairlead_dataplane_common::Counter;

use crate::maps::{BACKEND_STATS, BACKENDS, COUNTERS, SERVICE_STATS};

/// Counts a packet of `bytes` for the backend in `slot`; `begins` if a connection begins with it.
#[inline(always)]
pub fn packet(slot: u32, bytes: u32, begins: bool) {
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(slot) {
        // SAFETY: the element is this CPU's own, and programs of one CPU do not interleave here.
        unsafe {
            (*stats).packets += 1;
            (*stats).bytes += u64::from(bytes);
            (*stats).connections += u64::from(begins);
        }
    }
}

/// Counts an answer of `bytes` from the backend `id`, if `slot` is still its own.
#[inline(always)]
pub fn answer(slot: u32, id: u32, bytes: u32) {
    if BACKENDS.get(slot).is_none_or(|backend| backend.id != id) {
        return;
    }
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(slot) {
        // SAFETY: as above.
        unsafe {
            (*stats).answers += 1;
            (*stats).answer_bytes += u64::from(bytes);
        }
    }
}

/// Counts a connection that a socket of this node begins.
#[inline(always)]
pub fn connection(slot: u32) {
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(slot) {
        // SAFETY: as above; a program for sockets cannot be interrupted by another on its CPU that
        // counts for the same backend, except by a packet, and then one count may be lost.
        unsafe { (*stats).connections += 1 }
    }
}

/// Counts what is worth it and is no drop.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(count) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: as above.
        unsafe { *count += 1 }
    }
}

/// Counts a reset that was sent in the name of the service in `slot`.
#[inline(always)]
pub fn reset(slot: u32) {
    count(Counter::Reset);
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(slot) {
        // SAFETY: as above.
        unsafe { (*stats).resets += 1 }
    }
}
