//! The limits of what is noted, see [`fairlead_dataplane_common::noting`].

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use fairlead_dataplane_common::maps::{FLOWS_MAX, SERVICES_MAX};
use fairlead_dataplane_common::noting::{has_room, window};
use fairlead_dataplane_common::{Counter, NotedEntry};

use crate::maps::NOTED;
use crate::{atomic, lookup, stats};

/// Where the notes of all services are counted, and those of the service at `index` in `services`.
#[inline(always)]
fn tallies(index: u32) -> Option<[*mut NotedEntry; 2]> {
    Some([
        NOTED.get_ptr_mut(NotedEntry::OF_ALL)?,
        NOTED.get_ptr_mut(NotedEntry::of_service(index % SERVICES_MAX))?,
    ])
}

/// Whether the service at `index` in `services` may have one more note; if not, that is counted. Of what
/// is beyond the share of the table nothing else is written: in a flood, CPUs do not take the elements
/// from each other.
#[inline(always)]
pub fn is_admitted(index: u32) -> bool {
    // A subprogram's result is a number to the verifier.
    admit(index) != 0
}

/// Not inlined: the stack of who asks has no room for it.
#[inline(never)]
fn admit(index: u32) -> u32 {
    match limit(index) {
        None => 1,
        Some(limit) => {
            stats::count(limit);
            0
        }
    }
}

#[inline(always)]
fn limit(index: u32) -> Option<Counter> {
    let config = lookup::config().ok()?;
    let [all, own] = tallies(index)?;
    let share = u32::from(config.service_share_percent);
    // SAFETY: live map elements. Other CPUs count at the same time: the sums of the moment decide.
    let (all_flows, own_flows) = unsafe { ((*all).flows, (*own).flows) };
    if share != 0 && !has_room(FLOWS_MAX, all_flows, own_flows, share) {
        return Some(Counter::FlowShareFull);
    }
    if config.notes_per_window == 0 {
        return None;
    }
    // SAFETY: takes nothing.
    let now = window(unsafe { bpf_ktime_get_coarse_ns() });
    let (all, own) = (in_window(all, now), in_window(own, now));
    let share = if share == 0 { 100 } else { share };
    if has_room(config.notes_per_window, all, own, share) {
        None
    } else {
        Some(Counter::NotesTooFast)
    }
}

/// Counts a note of the service at `index` in `services`.
#[inline(never)]
pub fn count(index: u32) {
    let Some(tallies) = tallies(index) else {
        return;
    };
    for tally in tallies {
        // SAFETY: words of a live map element, aligned as its struct is.
        unsafe {
            atomic::fetch_add(&raw mut (*tally).flows, 1);
            atomic::fetch_add(&raw mut (*tally).in_window, 1);
        }
    }
}

/// How many were noted in the window `now`. Two CPUs that meet at its beginning may forget a few of
/// each other's.
#[inline(always)]
fn in_window(entry: *mut NotedEntry, now: u32) -> u32 {
    // SAFETY: a live map element; words are read and written whole.
    unsafe {
        if (*entry).window != now {
            (*entry).window = now;
            (*entry).in_window = 0;
        }
        (*entry).in_window
    }
}
