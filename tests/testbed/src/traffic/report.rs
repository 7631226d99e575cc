//! What became of the requests.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::http::Response;

/// The outcome of a load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Requests answered with status 200.
    pub ok: u64,
    /// All others.
    pub failed: u64,
    /// How often each failure happened.
    pub errors: BTreeMap<String, u64>,
    /// Who answered whom, how often; sorted.
    pub answers: Vec<Answer>,
    /// From the first request to the last answer, in milliseconds.
    pub elapsed_ms: u64,
    /// The median time of a request that succeeded, in microseconds.
    pub latency_us_p50: u64,
    /// The 99th percentile, in microseconds.
    pub latency_us_p99: u64,
    /// The slowest, in microseconds.
    pub latency_us_max: u64,
}

/// What one pod saw of one client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Answer {
    /// The pod that answered.
    pub pod: String,
    /// The node it runs on.
    pub node: String,
    /// The client's address as the pod saw it, without the port.
    pub client: String,
    /// How many of the answers.
    #[serde(default)]
    pub count: u64,
}

impl Report {
    /// Successful requests a second.
    pub fn per_second(&self) -> f64 {
        self.ok as f64 * 1000.0 / self.elapsed_ms.max(1) as f64
    }

    /// The pods that answered.
    pub fn pods(&self) -> Vec<&str> {
        let mut pods: Vec<_> = self
            .answers
            .iter()
            .map(|answer| answer.pod.as_str())
            .collect();
        pods.dedup();
        pods
    }

    pub(super) fn sum(tallies: Vec<Tally>, elapsed: Duration) -> Self {
        let mut report = Self {
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            ..Self::default()
        };
        let mut answers = BTreeMap::new();
        let mut latencies_us = Vec::new();
        for tally in tallies {
            report.ok += tally.ok;
            report.failed += tally.errors.values().sum::<u64>();
            for (error, count) in tally.errors {
                *report.errors.entry(error).or_default() += count;
            }
            for (who, count) in tally.answers {
                *answers.entry(who).or_default() += count;
            }
            latencies_us.extend(tally.latencies_us);
        }
        report.answers = answers
            .into_iter()
            .map(|((pod, node, client), count)| Answer {
                pod,
                node,
                client,
                count,
            })
            .collect();
        latencies_us.sort_unstable();
        report.latency_us_p50 = percentile(&latencies_us, 50);
        report.latency_us_p99 = percentile(&latencies_us, 99);
        report.latency_us_max = percentile(&latencies_us, 100);
        report
    }
}

/// The value below or at which `percent` of the sorted values are; 0 of none.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

/// What one client has counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    ok: u64,
    errors: BTreeMap<String, u64>,
    answers: BTreeMap<(String, String, String), u64>,
    latencies_us: Vec<u64>,
}

/// The part of hello's answer that is counted.
#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    pod: String,
    #[serde(default)]
    node: String,
    #[serde(default)]
    client: String,
}

impl Tally {
    pub(super) fn count(&mut self, outcome: io::Result<Response>, latency: Duration) {
        let failure = match outcome {
            Ok(response) if response.status == 200 => {
                self.ok += 1;
                self.latencies_us
                    .push(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
                if let Ok(body) = serde_json::from_slice::<Body>(&response.body) {
                    let client = without_port(body.client);
                    *self
                        .answers
                        .entry((body.pod, body.node, client))
                        .or_default() += 1;
                }
                return;
            }
            Ok(response) => format!("status {}", response.status),
            Err(error) => error.to_string(),
        };
        *self.errors.entry(failure).or_default() += 1;
    }
}

pub(super) fn without_port(address: String) -> String {
    match address.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_string(),
        Err(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<u64> = (1..=200).collect();
        for (percent, expect) in [(50, 100), (99, 198), (100, 200)] {
            assert_eq!(percentile(&sorted, percent), expect);
        }
        assert_eq!(percentile(&[7], 50), 7);
        assert_eq!(percentile(&[], 99), 0);
    }

    #[test]
    fn answers_of_another_status_are_failures_under_their_status() {
        let mut tally = Tally::default();
        let response = |status| {
            Ok(Response {
                status,
                body: Vec::new(),
            })
        };
        tally.count(response(200), Duration::ZERO);
        tally.count(response(503), Duration::ZERO);
        let report = Report::sum(vec![tally], Duration::from_millis(10));
        assert_eq!((report.ok, report.failed), (1, 1));
        assert_eq!(report.errors["status 503"], 1);
        assert_eq!(report.per_second(), 100.0);
    }
}
