use std::time::{Duration, Instant};

use serde::Serialize;

/// What several trials took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Times {
    /// How many there were.
    pub(crate) trials: usize,
    /// The fastest, in milliseconds.
    pub(crate) min_ms: f64,
    /// The middle one.
    pub(crate) median_ms: f64,
    /// The slowest.
    pub(crate) max_ms: f64,
}

impl Times {
    /// Runs `work` so many times, after once to warm up.
    pub(crate) fn of(trials: usize, mut work: impl FnMut()) -> Self {
        work();
        let times = (0..trials).map(|_| {
            let begun = Instant::now();
            work();
            begun.elapsed()
        });
        Self::from(times.collect::<Vec<_>>())
    }
}

impl From<Vec<Duration>> for Times {
    fn from(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let ms = |time: Option<&Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
        Self {
            trials: times.len(),
            min_ms: ms(times.first()),
            median_ms: ms(times.get(times.len() / 2)),
            max_ms: ms(times.last()),
        }
    }
}
