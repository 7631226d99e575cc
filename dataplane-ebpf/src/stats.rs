//! Counting what a service sees.

use fairlead_dataplane_common::Counter;

use crate::maps::{COUNTERS, SERVICE_STATS};

/// Counts one of `counter`.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(count) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the element is this CPU's own, and programs of one CPU do not interleave here.
        unsafe { *count += 1 }
    }
}

/// Counts a packet of `bytes` for the service in `slot`; `opens` if it begins a connection.
#[inline(always)]
pub fn packet(slot: u32, bytes: u32, opens: bool) {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(slot) {
        // SAFETY: the element is this CPU's own, and programs of one CPU do not interleave here.
        unsafe {
            (*stats).packets += 1;
            (*stats).bytes += u64::from(bytes);
            (*stats).connections += u64::from(opens);
        }
    }
}

/// Counts a connection that a socket of this node begins.
#[inline(always)]
pub fn connection(slot: u32) {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(slot) {
        // SAFETY: as above; a program for sockets cannot be interrupted by another on its CPU that
        // counts for the same service, except by a packet, and then one count may be lost.
        unsafe { (*stats).connections += 1 }
    }
}

/// Counts a packet or connection of the service that was refused.
#[inline(always)]
pub fn refused(slot: u32) {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(slot) {
        // SAFETY: as above.
        unsafe { (*stats).drops += 1 }
    }
}
