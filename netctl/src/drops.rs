//! `netctl drop`.

use crate::{
    source::Source,
    table::{Column, Rows, column, wide},
};

const COLUMNS: &[Column] = &[
    column("NODE", "node"),
    column("REASON", "reason"),
    column("PACKETS", "packets"),
    wide("BYTES", "bytes"),
    column("MEANING", "description"),
];

/// Dropped packets by node and reason; reasons that never occurred are left out.
pub(crate) async fn list(source: &Source) -> anyhow::Result<Rows> {
    let mut rows = Vec::new();
    for answer in source.view("drops", "").await? {
        for mut drop in answer.body.as_array().cloned().unwrap_or_default() {
            if drop["packets"] != 0 {
                drop["node"] = answer.node.as_str().into();
                rows.push(drop);
            }
        }
    }
    Ok(Rows::new(COLUMNS, rows, "No packet was dropped."))
}
