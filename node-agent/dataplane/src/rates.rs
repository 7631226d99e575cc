//! How fast counters grow: the estimator of IPVS (net/netfilter/ipvs/ip_vs_est.c), a moving average
//! that is sampled every two seconds and of which a quarter is the last sample.

use std::collections::HashMap;
use std::time::Duration;

use fairlead_dataplane_common::BackendStats;

/// Between two samples. The arithmetic below is made for it.
pub const PERIOD: Duration = Duration::from_secs(2);

/// Bits behind the point of connections' and packets' averages; a sample of two seconds is one bit
/// less.
const COUNT_BITS: u32 = 10;
/// The same of bytes', which are larger and need less.
const BYTE_BITS: u32 = 5;
/// The share of a new sample in the average: a quarter.
const DECAY_BITS: u32 = 2;

/// What there is of something in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rate {
    /// Connections begun.
    pub connections: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Answers.
    pub answers: u64,
    /// Their bytes.
    pub answer_bytes: u64,
}

impl Rate {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            answers: self.answers + other.answers,
            answer_bytes: self.answer_bytes + other.answer_bytes,
        }
    }
}

/// The rates of one set of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimator {
    last: BackendStats,
    /// Averages of connections, packets, bytes, answers and their bytes in a second, with bits behind
    /// the point.
    averages: [u64; 5],
}

impl Estimator {
    /// Starts at what the counters show: nothing that was before counts.
    pub fn start(counters: BackendStats) -> Self {
        Self {
            last: counters,
            averages: [0; 5],
        }
    }

    /// Takes what the counters show [`PERIOD`] after the last time.
    pub fn sample(&mut self, counters: BackendStats) {
        let last = std::mem::replace(&mut self.last, counters);
        // Counters that fell were reset: somebody else has their slot.
        let grown = [
            counters.connections.saturating_sub(last.connections) << (COUNT_BITS - 1),
            counters.packets.saturating_sub(last.packets) << (COUNT_BITS - 1),
            counters.bytes.saturating_sub(last.bytes) << (BYTE_BITS - 1),
            counters.answers.saturating_sub(last.answers) << (COUNT_BITS - 1),
            counters.answer_bytes.saturating_sub(last.answer_bytes) << (BYTE_BITS - 1),
        ];
        for (average, rate) in self.averages.iter_mut().zip(grown) {
            let difference = rate as i64 - *average as i64;
            *average = average.wrapping_add_signed(difference >> DECAY_BITS);
        }
    }

    /// The rates, rounded to whole numbers.
    pub fn rate(&self) -> Rate {
        let [connections, packets, bytes, answers, answer_bytes] = self.averages;
        let rounded = |average: u64, bits: u32| (average + (1 << (bits - 1)) - 1) >> bits;
        Rate {
            connections: rounded(connections, COUNT_BITS),
            packets: rounded(packets, COUNT_BITS),
            bytes: rounded(bytes, BYTE_BITS),
            answers: rounded(answers, COUNT_BITS),
            answer_bytes: rounded(answer_bytes, BYTE_BITS),
        }
    }
}

/// The rates of all backends, by slot.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// With the id of whose it is: slots are given anew.
    backends: HashMap<u32, (u32, Estimator)>,
}

impl Rates {
    /// Takes the counters of all backends: slot, id, and what they show.
    pub fn sample(&mut self, counters: impl IntoIterator<Item = (u32, u32, BackendStats)>) {
        let mut before = std::mem::take(&mut self.backends);
        for (slot, id, counted) in counters {
            let estimator = match before.remove(&slot) {
                Some((same, mut estimator)) if same == id => {
                    estimator.sample(counted);
                    estimator
                }
                _ => Estimator::start(counted),
            };
            self.backends.insert(slot, (id, estimator));
        }
    }

    /// The rates of the backend `id` in `slot`; nothing of it is known before its first sample.
    pub fn of_backend(&self, slot: u32, id: u32) -> Rate {
        match self.backends.get(&slot) {
            Some((same, estimator)) if *same == id => estimator.rate(),
            _ => Rate::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(connections: u64, packets: u64, bytes: u64) -> BackendStats {
        BackendStats {
            packets,
            bytes,
            connections,
            answers: packets,
            answer_bytes: bytes,
        }
    }

    #[test]
    fn steady_traffic_is_approached_by_a_quarter_of_the_rest_each_time() {
        // As in ip_vs_est.c: 2000 packets in two seconds are 1000 << 10, of which a quarter counts
        // at first.
        let mut estimator = Estimator::start(counters(0, 500, 0));
        let mut seen = Vec::new();
        for step in 1..=5 {
            estimator.sample(counters(0, 500 + 2_000 * step, 0));
            seen.push(estimator.rate().packets);
        }
        assert_eq!(seen, [250, 437, 578, 684, 763]);
        for step in 6..=60 {
            estimator.sample(counters(0, 500 + 2_000 * step, 0));
        }
        let settled = estimator.rate().packets;
        assert!((999..=1000).contains(&settled), "{settled}");
    }

    #[test]
    fn silence_ends_at_zero() {
        let mut estimator = Estimator::start(counters(0, 0, 0));
        estimator.sample(counters(100, 1_000, 1_500_000));
        let rate = estimator.rate();
        assert_eq!((rate.connections, rate.packets), (12, 125));
        assert_eq!(rate.bytes, 187_500);
        assert_eq!((rate.answers, rate.answer_bytes), (125, 187_500));
        for _ in 0..80 {
            estimator.sample(counters(100, 1_000, 1_500_000));
        }
        assert_eq!(estimator.rate(), Rate::default());
    }

    #[test]
    fn counters_that_fall_count_as_nothing() {
        let mut estimator = Estimator::start(counters(0, 1_000, 0));
        estimator.sample(counters(0, 10, 0));
        assert_eq!(estimator.rate().packets, 0);
        estimator.sample(counters(0, 2_010, 0));
        assert_eq!(estimator.rate().packets, 250);
    }

    #[test]
    fn slot_that_was_given_to_another_backend_begins_anew() {
        let mut rates = Rates::default();
        rates.sample([(7, 100, counters(0, 0, 0)), (8, 200, counters(0, 0, 0))]);
        rates.sample([(7, 100, counters(0, 800, 0)), (8, 201, counters(0, 800, 0))]);
        assert_eq!(rates.of_backend(7, 100).packets, 100);
        assert_eq!(rates.of_backend(8, 201), Rate::default());
        assert_eq!(rates.of_backend(8, 200), Rate::default());
        rates.sample([(8, 201, counters(0, 1_600, 0))]);
        assert_eq!(rates.of_backend(7, 100), Rate::default(), "gone");
        assert_eq!(rates.of_backend(8, 201).packets, 100);
    }
}
