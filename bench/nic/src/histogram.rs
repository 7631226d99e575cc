use fairlead_dataplane_common::traffic::latency_of;
use serde::Serialize;

/// How long frames took, in buckets.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Frames by bucket.
    pub counts: Vec<u64>,
}

/// What a histogram says in a few words, in nanoseconds; less than 7 % too short each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Half took no longer.
    pub p50: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1,000.
    pub p999: u64,
    /// All.
    pub max: u64,
}

impl Histogram {
    /// Nothing if nothing was measured.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let total: u64 = self.counts.iter().sum();
        let at = |per_mille: u64| {
            let rank = (total * per_mille).div_ceil(1000).max(1);
            let mut seen = 0;
            let bucket = self.counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            bucket.map(|bucket| latency_of(bucket as u32))
        };
        (total > 0).then_some(Percentiles {
            p50: at(500)?,
            p99: at(990)?,
            p999: at(999)?,
            max: at(1000)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use fairlead_dataplane_common::traffic::{LATENCY_BUCKETS, latency_bucket};

    use super::*;

    #[test]
    fn percentiles_are_of_all_that_was_counted() {
        let mut histogram = Histogram {
            counts: vec![0; LATENCY_BUCKETS as usize],
        };
        assert_eq!(histogram.percentiles(), None);
        for (count, ns) in [(989, 1_024), (10, 4_096), (1, 65_536)] {
            histogram.counts[latency_bucket(ns) as usize] += count;
        }
        let expected = Percentiles {
            p50: 1_024,
            p99: 4_096,
            p999: 4_096,
            max: 65_536,
        };
        assert_eq!(histogram.percentiles(), Some(expected));
    }
}
