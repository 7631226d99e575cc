//! How good Maglev's tables are, and how long one takes to build.

use std::collections::HashMap;
use std::hint::black_box;

use fairlead_api::BackendId;
use fairlead_dataplane::maglev::{self, Candidate, SLOTS_MAX};
use serde::Serialize;

use crate::timing::Times;
use testbed::table::Table;

/// Slots and backends: those of §5.3 of the paper (65537 and 655373 slots, 1000 backends) and a tenth
/// as many backends; then as the agent gives them.
const TABLES: [(u32, u32); 7] = [
    (65_537, 100),
    (65_537, 1_000),
    (655_373, 100),
    (655_373, 1_000),
    (16_381, 100),
    (4_093, 40),
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

/// How far a backend's share is from its weight.
#[derive(Debug, Serialize)]
pub(crate) struct Weighted {
    weight: u32,
    weights_sum: u32,
    /// The table's.
    slots: u32,
    /// Those of the backend.
    own_slots: u32,
    /// By how much its share is off, of what it should be, in percent.
    error_percent: f64,
}

/// The shares of backends whose weights are far apart, in the table that the agent gives them.
pub(crate) fn weighted() -> Vec<Weighted> {
    const WEIGHTS: [u32; 4] = [1, 2, 4, 8];
    let candidates = WEIGHTS.map(|weight| Candidate {
        id: BackendId(weight),
        weight,
    });
    let slots = maglev::size(&candidates);
    let table = maglev::populate(slots, &candidates);
    let weights_sum = WEIGHTS.iter().sum();
    let share = |candidate: &Candidate| {
        let own_slots = table.iter().filter(|owner| **owner == candidate.id).count() as u32;
        let wanted = f64::from(slots) * f64::from(candidate.weight) / f64::from(weights_sum);
        Weighted {
            weight: candidate.weight,
            weights_sum,
            slots,
            own_slots,
            error_percent: (f64::from(own_slots) / wanted - 1.0) * 100.0,
        }
    };
    candidates.iter().map(share).collect()
}

pub(crate) fn table(rows: &[Quality]) -> Table {
    let mut table = Table::new(
        "Maglev: shares, and slots that move needlessly on one removal",
        ["slots", "backends", "max/avg", "min/avg", "needless moves"],
    );
    for row in rows {
        table.add([
            row.slots.to_string(),
            row.backends.to_string(),
            format!("{:.4}", row.max_share),
            format!("{:.4}", row.min_share),
            format!("{:.3} %", row.needless_moves_percent),
        ]);
    }
    table
}

pub(crate) fn weighted_table(rows: &[Weighted]) -> Table {
    let mut table = Table::new(
        "Maglev: shares by weight (aim: within 1 %)",
        ["weight", "slots", "share", "of weights", "off by"],
    );
    for row in rows {
        let percent =
            |part: u32, of: u32| format!("{:.3} %", f64::from(part) * 100.0 / f64::from(of));
        table.add([
            row.weight.to_string(),
            format!("{} of {}", row.own_slots, row.slots),
            percent(row.own_slots, row.slots),
            percent(row.weight, row.weights_sum),
            format!("{:+.3} %", row.error_percent),
        ]);
    }
    table
}
