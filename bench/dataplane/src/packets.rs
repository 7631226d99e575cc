//! Nanoseconds a packet: all cases, and tables of them.

use std::path::{Path, PathBuf};
use std::{fs, process};

use anyhow::{Context, Result};
use fairlead_dataplane::{loader, object};
use fairlead_dataplane_common::protocol;
use packet_tests::World;
use testbed::Progress;

use crate::cases::{self, Case, FLOWS};
use crate::measure::{self, Effort, Measured, Row};
use crate::{features, services};
use testbed::table::{Table, grouped};

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// Numbers of services in the maps.
    pub(crate) services: Vec<u32>,
    /// Names of cases; all if there are none.
    pub(crate) cases: Vec<String>,
}

impl Selection {
    fn has(&self, case: &Case) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|name| name == case.name)
    }
}

/// Measures on `cpu`, with the programs of `object`.
pub(crate) fn measure(
    object: &[u8],
    cpu: usize,
    selection: &Selection,
    effort: Effort,
    progress: &Progress,
) -> Result<Vec<Row>> {
    measure::pin_to(cpu)?;
    let mut rows = Vec::new();
    for (turn, &count) in selection.services.iter().enumerate() {
        progress.step(format!("measure: filling maps with {count} services"));
        let pins = Pins::new()?;
        let mut world = World::load(object::embedded()?, Some(&pins.directory));
        services::fill(&mut world, count, protocol::TCP)?;
        let mut cases = cases::all(count);
        if turn == 0 {
            // What a feature costs does not depend on other services.
            cases.extend(features::all(&mut world)?);
        }
        cases.retain(|case| selection.has(case));
        let mut programs = Measured::load(object, &pins.directory)?;
        for (number, case) in (1..).zip(&cases) {
            progress.state(format!(
                "measure: {} {}, services: {count}, flows: {} ({number} of {})",
                case.name,
                case.family,
                case.flows,
                cases.len()
            ));
            rows.push(programs.run(&mut world, case, count, effort)?);
        }
    }
    Ok(rows)
}

/// What is for a VIP, and what is not, by services and flows.
pub(crate) fn table(rows: &[Row]) -> Table {
    let mut columns: Vec<(u32, u32)> = Vec::new();
    let mut lines: Vec<&Row> = Vec::new();
    for row in rows.iter().filter(|row| row.over.is_none()) {
        if !columns.contains(&(row.flows, row.services)) {
            columns.push((row.flows, row.services));
        }
        let is_same = |line: &&Row| (line.case, line.family) == (row.case, row.family);
        if !lines.iter().any(is_same) {
            lines.push(row);
        }
    }
    columns.sort_unstable();
    let name = |&(flows, services): &(u32, u32)| {
        let flows = if flows > 1 { ", 64k flows" } else { "" };
        let noun = if services == 1 { "service" } else { "services" };
        format!("{} {noun}{flows}", grouped(services.into()))
    };
    let first = ["case", "family", "frame"].map(str::to_owned).into_iter();
    let names = first.chain(columns.iter().map(name));
    let mut table = Table::new(
        "ns per packet, minimum / median",
        names.chain(["aim".to_owned()]),
    );
    for line in lines {
        let cell = |&(flows, services): &(u32, u32)| {
            let is_it = |row: &&Row| {
                (row.case, row.family, row.flows, row.services)
                    == (line.case, line.family, flows, services)
            };
            rows.iter().find(is_it).map_or_else(String::new, both)
        };
        let first = [line.case, line.family, line.method].map(str::to_owned);
        let cells = first.into_iter().chain(columns.iter().map(cell));
        table.add(cells.chain([aim(line).to_owned()]));
    }
    table
}

/// What each feature adds to the case that it is compared with.
pub(crate) fn feature_table(rows: &[Row]) -> Table {
    let mut table = Table::new(
        "What features cost: ns per packet, and the minimum's distance to another case",
        [
            "feature",
            "family",
            "frame",
            "flows",
            "min / median",
            "costs",
            "over",
        ],
    );
    for row in rows {
        let Some(over) = row.over else { continue };
        let is_base = |base: &&Row| {
            (base.case, base.services) == (over, row.services)
                && (base.family == row.family || base.case == "floor")
                && (base.flows > 1) == (row.flows > 1)
        };
        let base = rows.iter().find(is_base);
        let costs = base.map(|base| row.ns_min as i128 - base.ns_min as i128);
        table.add([
            row.case.to_owned(),
            row.family.to_owned(),
            row.method.to_owned(),
            grouped(row.flows.into()),
            both(row),
            costs.map_or_else(String::new, |ns| format!("{ns:+}")),
            over.to_owned(),
        ]);
    }
    table
}

fn both(row: &Row) -> String {
    format!("{} / {}", row.ns_min, row.ns_median)
}

/// What the project set out for, in nanoseconds.
fn aim(row: &Row) -> &'static str {
    match (row.case, row.family) {
        ("floor", _) => "",
        (case, "ipv6") if !case.starts_with("syn") => "IPv4 + 20 %",
        ("pass", _) => "34",
        ("established_dr", _) => "48; 64k flows 110",
        ("established_tun", _) => "72",
        ("established_nat", _) => "110",
        _ => "established + 5",
    }
}

/// A directory of a bpffs, by which both objects share their maps. Gone with the value.
struct Pins {
    directory: PathBuf,
}

impl Pins {
    fn new() -> Result<Self> {
        let name = format!("fairlead-bench-{}", process::id());
        let directory = Path::new("/sys/fs/bpf").join(name);
        loader::mount(&directory).context("make a directory for pinned maps")?;
        Ok(Self { directory })
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("remove {}: {error}", self.directory.display());
        }
    }
}

const _: () = assert!(FLOWS == 1 << 16, "tables call it 64k");
