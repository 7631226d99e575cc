//! The schedulers whose pick is no function of the packet: by turn (`rr`, `wrr`) and by load (`lc`,
//! `wlc`, `sed`, `nq`), as IPVS defines them.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::bpf_loop;
use fairlead_dataplane_common::maps::SERVICES_MAX;
use fairlead_dataplane_common::{
    BACKEND_ACTIVE, LEAST_LOAD_BACKENDS_MAX, LUT_EMPTY, LUT_SLOT_MASK, LoadEntry,
    SCHEDULER_LEAST_CONNECTIONS, SCHEDULER_NEVER_QUEUE, SCHEDULER_SHORTEST_EXPECTED_DELAY,
    SERVICE_IN_TURN, hash,
};

use crate::atomic;
use crate::maps::{BACKENDS, LOADS, LUT, SERVICES, TURNS};

/// The slot of the backend whose turn it is, or that has the least load; [`LUT_EMPTY`] if there is
/// none. `hash` says where a search begins, so that equals share evenly; only backends of this node
/// count if `is_local` is not 0.
#[inline(never)]
pub fn next(service_index: u32, hash: u32, is_local: u32) -> u32 {
    let Some(service) = SERVICES.get(service_index) else {
        return LUT_EMPTY;
    };
    let table = if is_local != 0 {
        Region {
            offset: service.lut_offset + service.lut_length,
            length: service.local_length,
        }
    } else {
        Region {
            offset: service.lut_offset,
            length: service.lut_length,
        }
    };
    if service.flags & SERVICE_IN_TURN != 0 {
        in_turn(&table, service_index % SERVICES_MAX)
    } else {
        least_load(&table, service.scheduler(), hash)
    }
}

/// A part of `lut`.
struct Region {
    offset: u32,
    length: u32,
}

/// Counts a connection that a backend was given just now.
#[inline(always)]
pub fn took_one(backend_slot: u32) {
    if let Some(load) = LOADS.get_ptr_mut(backend_slot) {
        // SAFETY: a word of a live map element, aligned as its struct is.
        unsafe { atomic::fetch_add(&raw mut (*load).connections, 1) };
    }
}

#[inline(always)]
fn in_turn(table: &Region, service_slot: u32) -> u32 {
    let Some(turns) = TURNS.get_ptr_mut(service_slot) else {
        return LUT_EMPTY;
    };
    // SAFETY: a live map element.
    let turn = unsafe { atomic::fetch_add(turns, 1) };
    let Some(turn) = turn.checked_rem(table.length) else {
        return LUT_EMPTY;
    };
    element(table.offset + turn)
}

/// The best of at most [`LEAST_LOAD_BACKENDS_MAX`] elements: of the first ones from the hash's place
/// on, if the table has more.
#[inline(always)]
fn least_load(table: &Region, scheduler: u32, hash: u32) -> u32 {
    let mut search = Search {
        offset: table.offset,
        length: table.length,
        first: hash::reduce(hash, table.length),
        scheduler,
        best: LUT_EMPTY,
        connections: Cost::WORST.connections,
        weight: Cost::WORST.weight,
    };
    let count = if table.length < LEAST_LOAD_BACKENDS_MAX {
        table.length
    } else {
        LEAST_LOAD_BACKENDS_MAX
    };
    // The verifier follows a plain loop round by round, each of which goes many ways; the helper's
    // callback it looks at once.
    // SAFETY: the callback takes what it is given here.
    unsafe {
        bpf_loop(
            count,
            consider as *mut c_void,
            (&raw mut search).cast::<c_void>(),
            0,
        );
    }
    search.best
}

/// What [`least_load`] has seen so far.
#[repr(C)]
struct Search {
    /// Of the best one's [`Cost`], whose own padding the stack has no room for.
    connections: u64,
    weight: u32,
    best: u32,
    offset: u32,
    length: u32,
    first: u32,
    scheduler: u32,
}

/// Looks at the element `count` places behind the first one; returns 1 if there can be no better.
unsafe extern "C" fn consider(count: u32, search: *mut Search) -> i64 {
    // SAFETY: `least_load` passes a search of its own.
    let search = unsafe { &mut *search };
    let mut place = search.first + count;
    if place >= search.length {
        place -= search.length;
    }
    let slot = element(search.offset + place);
    let Some(load) = LOADS.get(slot) else {
        return 0;
    };
    if slot == LUT_EMPTY {
        return 0;
    }
    let cost = Cost::of(load, search.scheduler);
    let is_idle = load.connections | load.elsewhere == 0 && load.weight != 0;
    if search.scheduler == SCHEDULER_NEVER_QUEUE && is_idle {
        search.best = slot;
        return 1;
    }
    let best = Cost {
        connections: search.connections,
        weight: search.weight,
    };
    if !cost.is_below(&best) {
        return 0;
    }
    search.best = slot;
    search.connections = cost.connections;
    search.weight = cost.weight;
    0
}

/// A backend that takes new connections, by an element of the table.
#[inline(always)]
fn element(index: u32) -> u32 {
    let Some(element) = LUT.get(index) else {
        return LUT_EMPTY;
    };
    let slot = *element & LUT_SLOT_MASK;
    match BACKENDS.get(slot) {
        Some(backend) if backend.state == BACKEND_ACTIVE => slot,
        _ => LUT_EMPTY,
    }
}

/// Connections for a weight.
#[derive(Clone, Copy)]
struct Cost {
    connections: u64,
    weight: u32,
}

impl Cost {
    /// Above all others, but for those of weight 0, which are never taken.
    const WORST: Self = Self {
        connections: 1,
        weight: 0,
    };

    #[inline(always)]
    fn of(load: &LoadEntry, scheduler: u32) -> Self {
        let connections = u64::from(load.connections) + u64::from(load.elsewhere);
        match scheduler {
            SCHEDULER_LEAST_CONNECTIONS => Self {
                connections,
                weight: 1,
            },
            SCHEDULER_SHORTEST_EXPECTED_DELAY | SCHEDULER_NEVER_QUEUE => Self {
                connections: connections + 1,
                weight: load.weight,
            },
            _ => Self {
                connections,
                weight: load.weight,
            },
        }
    }

    /// Compares the quotients without dividing.
    #[inline(always)]
    fn is_below(&self, other: &Self) -> bool {
        self.connections * u64::from(other.weight) < other.connections * u64::from(self.weight)
    }
}
