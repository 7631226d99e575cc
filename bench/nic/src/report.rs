use std::collections::BTreeMap;
use std::fmt::Write;

use bench_nic::Percentiles;
use serde::Serialize;

/// What one machine has measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// `gen`, `lb` or `sink`.
    pub(crate) role: &'static str,
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

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<34} {value:>16}");
        };
        row(self.role, self.interface.clone());
        row("seconds", format!("{:.2}", self.seconds));
        row("sent/s", format!("{:.0}", self.sent_pps));
        row("received/s", format!("{:.0}", self.received_pps));
        for (queue, rate) in &self.by_queue_pps {
            row(&format!("  by queue {queue}"), format!("{rate:.0}"));
        }
        for (cpu, rate) in &self.by_cpu_pps {
            row(&format!("  on CPU {cpu}"), format!("{rate:.0}"));
        }
        for (name, rate) in &self.driver_per_s {
            row(&format!("  {name}"), format!("{rate:.0}"));
        }
        if let Some(latency) = self.latency_ns {
            row("latency, ns, 50 %", latency.p50.to_string());
            row("  99 %", latency.p99.to_string());
            row("  99.9 %", latency.p999.to_string());
            row("  all", latency.max.to_string());
        }
        row("dropped", self.dropped.to_string());
        text
    }
}
