//! How good Maglev's tables are, and how long one takes to build.

use std::collections::HashMap;
use std::hint::black_box;

use fairlead_api::BackendId;
use fairlead_dataplane::maglev::{self, Candidate, SLOTS_MAX};
use serde::Serialize;

use crate::timing::Times;

/// Slots and backends, around those of §5.3 of the paper: 65537 and 655373 slots, 1000 backends.
const TABLES: [(u32, u32); 5] = [
    (65_537, 100),
    (65_537, 1_000),
    (655_373, 100),
    (655_373, 1_000),
    (1_021, 10),
];

/// One table.
#[derive(Debug, Serialize)]
pub(crate) struct Quality {
    /// Slots.
    slots: u32,
    /// Backends of equal weight.
    backends: u32,
    /// The largest share, relative to the average.
    max_share: f64,
    /// The smallest.
    min_share: f64,
    /// Slots that change owner when one backend goes, but for its own: of all, in percent.
    /// The average over ten removals.
    needless_moves_percent: f64,
}

/// The tables of the comparison.
pub(crate) fn measure() -> Vec<Quality> {
    TABLES
        .into_iter()
        .map(|(slots, backends)| quality(slots, backends))
        .collect()
}

/// How long the largest table takes for 100 backends.
pub(crate) fn build_time(trials: usize) -> Times {
    let candidates = equal(100);
    Times::of(trials, || {
        black_box(maglev::populate(SLOTS_MAX, black_box(&candidates)));
    })
}

fn quality(slots: u32, backends: u32) -> Quality {
    /// Backends that are removed in turn.
    const REMOVALS: u32 = 10;
    let candidates = equal(backends);
    let table = maglev::populate(slots, &candidates);
    let mut counts: HashMap<BackendId, u32> = HashMap::new();
    for owner in &table {
        *counts.entry(*owner).or_default() += 1;
    }
    let average = f64::from(slots) / f64::from(backends);
    let relative = |count: Option<&u32>| f64::from(*count.unwrap_or(&0)) / average;
    let mut moved = 0;
    for removed in (1..=REMOVALS).map(|n| BackendId(n * backends / REMOVALS)) {
        let rest: Vec<Candidate> = candidates
            .iter()
            .copied()
            .filter(|candidate| candidate.id != removed)
            .collect();
        let after = maglev::populate(slots, &rest);
        let pairs = table.iter().zip(&after);
        moved += pairs
            .filter(|(old, new)| **old != removed && old != new)
            .count();
    }
    Quality {
        slots,
        backends,
        max_share: relative(counts.values().max()),
        min_share: relative(counts.values().min()),
        needless_moves_percent: moved as f64 * 100.0 / f64::from(REMOVALS) / f64::from(slots),
    }
}

fn equal(count: u32) -> Vec<Candidate> {
    (1..=count)
        .map(|id| Candidate {
            id: BackendId(id),
            weight: 1,
        })
        .collect()
}

pub(crate) fn print_table(rows: &[Quality]) {
    println!(
        "{:>8} {:>9} {:>8} {:>8} {:>15}",
        "slots", "backends", "max/avg", "min/avg", "needless moves"
    );
    for row in rows {
        println!(
            "{:>8} {:>9} {:>8.4} {:>8.4} {:>14.3}%",
            row.slots, row.backends, row.max_share, row.min_share, row.needless_moves_percent
        );
    }
}
