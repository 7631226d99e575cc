//! Packets a second through a node, all of it on one CPU: a generator, the node and a sink, each in
//! a network namespace, joined by veth pairs. UDP in frames of 60 bytes, 4,096 flows.
//!
//! The ways to be compared stand side by side, and each in turn carries packets for a while, several
//! times; so whatever else the machine does meets all of them.

mod lane;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench_nic::pin_to;
use serde::Serialize;

use testbed::Progress;

use lane::{Lane, Path};
use testbed::table::{Table, grouped};

/// How long a way carries packets in each round. To begin and to end a test run waits for grace periods
/// of the kernel, some ten milliseconds.
const ROUND: Duration = Duration::from_millis(1500);

/// Frames by which it is found how many fill a round.
const WARM_UP: u32 = 500_000;

/// One way through a node.
#[derive(Debug, Serialize)]
pub(crate) struct Rate {
    /// Always `rate`.
    case: &'static str,
    /// The way.
    pub(crate) path: &'static str,
    /// Services that the node has.
    pub(crate) services: u32,
    /// Packets a second at the sink, the middle one of all rounds.
    pub(crate) pps: u64,
    /// The best round.
    pub(crate) pps_max: u64,
}

/// Measures all ways in `rounds` rounds on `cpu`, with the programs of `traffic`.
pub(crate) fn measure(
    traffic: &[u8],
    cpu: usize,
    rounds: usize,
    progress: &Progress,
) -> Result<Vec<Rate>> {
    progress.step("measure: packets a second, setting up");
    let mut lanes = Vec::new();
    for (path, services) in [
        (Path::Forward, 0),
        (Path::Nftables, 1),
        (Path::Fairlead { dr: true }, 10),
        (Path::Fairlead { dr: true }, 10_000),
        (Path::Fairlead { dr: false }, 10),
        (Path::Fairlead { dr: false }, 10_000),
    ] {
        let lane = Lane::new(path, services, traffic);
        lanes.push(lane.with_context(|| format!("set up {path:?}"))?);
    }
    let mut rates: Vec<Vec<u64>> = lanes.iter().map(|_| Vec::new()).collect();
    let mut frames: Vec<u32> = Vec::new();
    for lane in &lanes {
        let rate = carry(lane, cpu, WARM_UP)?;
        frames.push((rate as f64 * ROUND.as_secs_f64()) as u32);
    }
    for round in 1..=rounds {
        progress.state(format!(
            "measure: packets a second, round {round} of {rounds}"
        ));
        for ((lane, frames), rates) in lanes.iter().zip(&frames).zip(&mut rates) {
            rates.push(carry(lane, cpu, *frames)?);
        }
    }
    let all = lanes.iter().zip(rates);
    let rows = all.map(|(lane, mut rates)| {
        rates.sort_unstable();
        Rate {
            case: "rate",
            path: lane.path.name(),
            services: lane.services,
            pps: rates[rates.len() / 2],
            pps_max: rates.last().copied().unwrap_or_default(),
        }
    });
    Ok(rows.collect())
}

/// Packets a second at the sink of a lane that is sent so many frames as fast as `cpu` can, with all
/// else that there is to do for them.
fn carry(lane: &Lane, cpu: usize, frames: u32) -> Result<u64> {
    lane.generator.run(|| {
        pin_to(cpu)?;
        let sender = lane.sender()?;
        let before = lane.traffic.received_frames()?;
        let begun = Instant::now();
        sender.send(frames)?;
        let seconds = begun.elapsed().as_secs_f64();
        let received = lane.traffic.received_frames()? - before;
        ensure!(received > 0, "no frame came through {:?}", lane.path);
        Ok((received as f64 / seconds) as u64)
    })?
}

pub(crate) fn table(rates: &[Rate]) -> Table {
    let reference = rates.iter().find(|rate| rate.path == "nftables");
    let mut table = Table::new(
        "Packets a second on one CPU (aim: ours at least 5 times nftables)",
        ["way", "services", "median", "best round", "to nftables"],
    );
    for rate in rates {
        let ratio = reference.map(|of| rate.pps as f64 / of.pps as f64);
        table.add([
            rate.path.to_owned(),
            grouped(rate.services.into()),
            grouped(rate.pps),
            grouped(rate.pps_max),
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
        ]);
    }
    table
}
