//! Reads the backends' counters every now and then, for the rates of [`crate::rates`].

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{MapData, MapError};
use fairlead_dataplane_common::{BackendStats, maps};
use tokio::time::MissedTickBehavior;

use crate::rates::{self, Rates};
use crate::state::State;
use crate::sys;

/// Slots of one call: what it reads is as many counters for each CPU.
const BATCH: u32 = 1_024;

/// Samples the counters of the backends that `state` knows, for as long as it is polled.
pub(crate) async fn keep_rates(state: Arc<Mutex<State>>, rates: Arc<Mutex<Rates>>, map: MapData) {
    let map = Arc::new(map);
    let mut turn = tokio::time::interval(rates::PERIOD);
    // A turn that comes late is one turn: the estimator takes the time between two for granted.
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        let (state, rates, map) = (Arc::clone(&state), Arc::clone(&rates), Arc::clone(&map));
        let sampled = tokio::task::spawn_blocking(move || {
            // The lock is held for the list alone.
            let known = {
                let state = state.lock().unwrap_or_else(PoisonError::into_inner);
                let backends = state.observed.backends.iter();
                let mut known: Vec<(u32, u32)> =
                    backends.map(|(slot, entry)| (slot, entry.id)).collect();
                known.sort_unstable();
                known
            };
            let counters = read(&map, &known)?;
            rates
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .sample(counters);
            Ok::<(), std::io::Error>(())
        });
        if let Ok(Err(error)) = sampled.await {
            tracing::warn!(%error, "the backends' counters could not be read: rates stand still");
        }
    }
}

/// The map of the counters, opened by its pin.
pub(crate) fn open(pins: &Path) -> Result<MapData, MapError> {
    MapData::from_pin(pins.join(maps::BACKEND_STATS))
}

/// The counters of the backends in `known`, pairs of slot and id in ascending order.
fn read(map: &MapData, known: &[(u32, u32)]) -> std::io::Result<Vec<(u32, u32, BackendStats)>> {
    let mut counters = Vec::with_capacity(known.len());
    let mut rest = known;
    while let Some((first, _)) = rest.first() {
        let end = first.saturating_add(BATCH);
        let count = rest.partition_point(|(slot, _)| *slot < end);
        let (batch, behind) = rest.split_at(count);
        let last = batch.last().map_or(*first, |(slot, _)| *slot);
        let read = sys::read_per_cpu::<BackendStats>(
            map.fd().as_fd(),
            *first,
            (last - first + 1) as usize,
        )?;
        for (slot, id) in batch {
            let of_cpus = read.of((slot - first) as usize);
            let sum = of_cpus
                .iter()
                .fold(BackendStats::default(), BackendStats::plus);
            counters.push((*slot, *id, sum));
        }
        rest = behind;
    }
    Ok(counters)
}
