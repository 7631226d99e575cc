//! Whether many services cost more than few.

use crate::measure::Row;
use crate::rate::Rate;
use testbed::table::{Table, grouped};

/// Services that are few, and many.
const FEW: u32 = 10;
const MANY: u32 = 10_000;

/// What was measured with both numbers of services: the best of each, which what else the machine does
/// touches least.
pub(crate) fn table(rows: &[Row], rates: &[Rate]) -> Table {
    let mut table = Table::new(
        "From 10 to 10,000 services (aim: within 10 %)",
        ["what", "10 services", "10,000 services", "dearer by"],
    );
    for few in rows.iter().filter(|row| row.services == FEW) {
        let is_same = |row: &&Row| {
            (row.case, row.family, row.flows, row.services)
                == (few.case, few.family, few.flows, MANY)
        };
        if let Some(many) = rows.iter().find(is_same) {
            let flows = if few.flows > 1 {
                "65,536 flows"
            } else {
                "1 flow"
            };
            table.add([
                format!("{} {}, {flows}: ns", few.case, few.family),
                few.ns_min.to_string(),
                many.ns_min.to_string(),
                percent(many.ns_min as f64 / few.ns_min as f64),
            ]);
        }
    }
    for few in rates.iter().filter(|rate| rate.services == FEW) {
        let is_same = |rate: &&Rate| (rate.path, rate.services) == (few.path, MANY);
        if let Some(many) = rates.iter().find(is_same) {
            table.add([
                format!("{}: packets/s, best round", few.path),
                grouped(few.pps_max),
                grouped(many.pps_max),
                percent(few.pps_max as f64 / many.pps_max as f64),
            ]);
        }
    }
    table
}

fn percent(ratio: f64) -> String {
    format!("{:+.1} %", (ratio - 1.0) * 100.0)
}
