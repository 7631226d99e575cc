use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench_nic::{Flows, Traffic, interface, pin_to};
use fairlead_dataplane_common::traffic::Received;

use crate::balancer::Balancer;
use crate::case::Case;
use crate::report::Row;
use crate::{Arguments, Part};

/// Packets a second of which latencies are taken, unless a rate is given: what any balancer bears.
const LATENCY_RATE: u64 = 100_000;

/// Sends each case for as long as it was asked to, and counts what comes back meanwhile.
pub(crate) fn generate(arguments: &Arguments) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for case in &arguments.case {
        for part in arguments.parts() {
            rows.push(generate_part(arguments, *case, *part)?);
        }
    }
    Ok(rows)
}

fn generate_part(arguments: &Arguments, case: Case, part: Part) -> Result<Row> {
    let options = &arguments.flows;
    let (name, rate) = match part {
        Part::Rates => ("rates", options.rate),
        Part::Latencies => ("latencies", options.rate.or(Some(LATENCY_RATE))),
    };
    let to = options.to.as_deref();
    let flows = Flows {
        source_mac: interface::mac(&arguments.iface)?,
        destination_mac: interface::parse_mac(to.context("name whom --to send frames")?)?,
        source: options.source,
        destination: options.vip,
        count: options.flows,
        frame_bytes: case.frame_bytes(),
        is_timed: part == Part::Latencies,
    };
    let mut traffic = load(arguments)?;
    traffic.set_flows(&flows)?;
    // Drivers have queues for live frames only with a program; and it counts what comes back.
    traffic.attach_sink(&arguments.iface)?;
    let ifindex = interface::index(&arguments.iface)?;
    let time = Duration::from_secs(arguments.seconds);

    let share = rate.map(|rate| (rate / options.cpus.len() as u64).max(1));
    let before = Counted::read(&traffic, &arguments.iface)?;
    let begun = Instant::now();
    let sent: u64 = thread::scope(|scope| {
        let workers: Vec<_> = options
            .cpus
            .iter()
            .map(|cpu| scope.spawn(|| send(&traffic, ifindex, &flows, *cpu, share, time)))
            .collect();
        let sent = workers.into_iter().map(|worker| match worker.join() {
            Ok(sent) => sent,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        sent.sum::<Result<u64>>()
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = Counted::read(&traffic, &arguments.iface)?;
    Ok(Row {
        role: "gen",
        case: Some(case.name()),
        part: Some(name),
        interface: arguments.iface.clone(),
        sent_pps: sent as f64 / seconds,
        latency_ns: traffic.latency()?.percentiles(),
        ..after.since(&before, seconds)
    })
}

/// Sends on one CPU, at a rate or as fast as it can, and answers how many frames.
fn send(
    traffic: &Traffic,
    ifindex: u32,
    flows: &Flows,
    cpu: usize,
    rate: Option<u64>,
    time: Duration,
) -> Result<u64> {
    /// Frames of one call when nothing limits the rate: to begin and to end it takes the kernel some
    /// ten milliseconds, which this many make up for.
    const UNLIMITED: u32 = 2_000_000;
    /// Calls a second with a limit.
    const CALLS_PER_S: u64 = 10;
    pin_to(cpu)?;
    let sender = traffic.sender(ifindex, flows)?;
    let begun = Instant::now();
    let mut sent = 0_u64;
    while begun.elapsed() < time {
        let Some(rate) = rate else {
            sender.send(UNLIMITED)?;
            sent += u64::from(UNLIMITED);
            continue;
        };
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64 + rate / CALLS_PER_S;
        let frames = u32::try_from(due.saturating_sub(sent).max(1)).unwrap_or(UNLIMITED);
        sender.send(frames.min(UNLIMITED))?;
        sent += u64::from(frames.min(UNLIMITED));
        // Until this much is due by the rate.
        let until = Duration::from_secs_f64(sent as f64 / rate as f64);
        thread::sleep(until.saturating_sub(begun.elapsed()));
    }
    Ok(sent)
}

/// Counts what arrives for as long as it was asked to.
pub(crate) fn sink(arguments: &Arguments) -> Result<Row> {
    let mut traffic = load(arguments)?;
    traffic.attach_sink(&arguments.iface)?;
    let before = Counted::read(&traffic, &arguments.iface)?;
    let begun = Instant::now();
    thread::sleep(Duration::from_secs(arguments.seconds));
    let seconds = begun.elapsed().as_secs_f64();
    let after = Counted::read(&traffic, &arguments.iface)?;
    Ok(Row {
        role: "sink",
        interface: arguments.iface.clone(),
        latency_ns: traffic.latency()?.percentiles(),
        ..after.since(&before, seconds)
    })
}

/// Balances for as long as it was asked to.
pub(crate) fn balance(arguments: &Arguments) -> Result<Row> {
    let name = &arguments.iface;
    let balancer = Balancer::attach(name, &arguments.flows, &arguments.backends)?;
    let driver_before = interface::queue_counters(name)?;
    let before = balancer.packets()?;
    let dropped_before = balancer.dropped();
    let begun = Instant::now();
    thread::sleep(Duration::from_secs(arguments.seconds));
    let seconds = begun.elapsed().as_secs_f64();
    let after = balancer.packets()?;
    let dropped = balancer.dropped() - dropped_before;
    let by_cpu_pps: BTreeMap<usize, f64> = before
        .iter()
        .zip(&after)
        .enumerate()
        .filter(|(_, (before, after))| after > before)
        .map(|(cpu, (before, after))| (cpu, (after - before) as f64 / seconds))
        .collect();
    let sent_pps: f64 = by_cpu_pps.values().sum();
    Ok(Row {
        role: "lb",
        interface: name.clone(),
        seconds,
        sent_pps,
        received_pps: sent_pps + dropped as f64 / seconds,
        by_cpu_pps,
        driver_per_s: rates(&driver_before, &interface::queue_counters(name)?, seconds),
        dropped,
        ..Row::default()
    })
}

fn load(arguments: &Arguments) -> Result<Traffic> {
    let path = &arguments.traffic;
    let object = fs::read(path).with_context(|| {
        let path = path.display();
        format!("read {path} (`cargo xtask build-ebpf` makes it)")
    })?;
    Traffic::load(&object)
}

/// What sinks and the driver have counted at one moment.
struct Counted {
    received: Vec<Vec<Received>>,
    driver: BTreeMap<String, u64>,
}

impl Counted {
    fn read(traffic: &Traffic, interface: &str) -> Result<Self> {
        Ok(Self {
            received: traffic.received()?,
            driver: interface::queue_counters(interface)?,
        })
    }

    /// The rates since `before`, `seconds` ago.
    fn since(&self, before: &Self, seconds: f64) -> Row {
        let mut row = Row {
            seconds,
            driver_per_s: rates(&before.driver, &self.driver, seconds),
            ..Row::default()
        };
        for (queue, (was, is)) in (0..).zip(before.received.iter().zip(&self.received)) {
            for (cpu, (was, is)) in was.iter().zip(is).enumerate() {
                let rate = (is.packets - was.packets) as f64 / seconds;
                if rate > 0.0 {
                    *row.by_queue_pps.entry(queue).or_default() += rate;
                    *row.by_cpu_pps.entry(cpu).or_default() += rate;
                    row.received_pps += rate;
                }
            }
        }
        row
    }
}

/// How much each counter moved, a second.
fn rates(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    seconds: f64,
) -> BTreeMap<String, f64> {
    after
        .iter()
        .filter_map(|(name, value)| {
            let moved = value.saturating_sub(*before.get(name)?);
            (moved > 0).then(|| (name.clone(), moved as f64 / seconds))
        })
        .collect()
}
