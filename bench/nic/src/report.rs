use std::collections::BTreeMap;

use bench_nic::Percentiles;
use serde::Serialize;
use testbed::table::{Table, grouped};

/// What one machine has measured in one go.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Row {
    /// `gen`, `lb` or `sink`.
    pub(crate) role: &'static str,
    /// gen: which frames were sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) case: Option<String>,
    /// gen: `rates` or `latencies`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) part: Option<&'static str>,
    /// The interface.
    pub(crate) interface: String,
    /// From the first counter read to the last.
    pub(crate) seconds: f64,
    /// Packets a second that this machine sent, of its own or on.
    pub(crate) sent_pps: f64,
    /// Packets a second that arrived and were counted, all or what remained of them.
    pub(crate) received_pps: f64,
    /// The same by receive queue.
    pub(crate) by_queue_pps: BTreeMap<u32, f64>,
    /// The same by CPU.
    pub(crate) by_cpu_pps: BTreeMap<usize, f64>,
    /// How much the driver's own counters of queues moved, a second.
    pub(crate) driver_per_s: BTreeMap<String, f64>,
    /// How long frames with a time were under way, in nanoseconds.
    pub(crate) latency_ns: Option<Percentiles>,
    /// Packets that the balancer dropped.
    pub(crate) dropped: u64,
}

impl Row {
    /// What it is of, for people.
    fn name(&self) -> String {
        let case = self.case.as_deref().unwrap_or(self.role);
        match self.part {
            Some(part) => format!("{case}, {part}"),
            None => case.to_owned(),
        }
    }
}

/// For people: all of it, what each queue and CPU had of it, and how long it took.
pub(crate) fn tables(rows: &[Row]) -> [Table; 3] {
    let mut all = Table::new(
        "Packets a second",
        [
            "",
            "interface",
            "seconds",
            "sent/s",
            "received/s",
            "dropped",
        ],
    );
    let mut parts = Table::new("Of these, by queue and CPU", ["", "counter", "per s"]);
    let mut latencies = Table::new("Latency, ns", ["", "50 %", "99 %", "99.9 %", "all"]);
    for row in rows {
        let name = row.name();
        all.add([
            name.clone(),
            row.interface.clone(),
            format!("{:.2}", row.seconds),
            rate(row.sent_pps),
            rate(row.received_pps),
            grouped(row.dropped),
        ]);
        let queues = row.by_queue_pps.iter();
        let queues = queues.map(|(queue, pps)| (format!("by queue {queue}"), *pps));
        let cpus = row.by_cpu_pps.iter();
        let cpus = cpus.map(|(cpu, pps)| (format!("on CPU {cpu}"), *pps));
        let driver = row.driver_per_s.iter();
        let driver = driver.map(|(counter, per_s)| (counter.clone(), *per_s));
        for (counter, per_s) in queues.chain(cpus).chain(driver) {
            parts.add([name.clone(), counter, rate(per_s)]);
        }
        if let Some(latency) = row.latency_ns {
            let all = [latency.p50, latency.p99, latency.p999, latency.max];
            latencies.add([name].into_iter().chain(all.map(grouped)));
        }
    }
    [all, parts, latencies]
}

fn rate(per_s: f64) -> String {
    grouped(per_s.round() as u64)
}
