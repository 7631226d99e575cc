//! `netctl flow`.

use crate::{
    FlowKind,
    source::Source,
    table::{Column, Rows, column, wide},
};

const COLUMNS: &[Column] = &[
    column("NODE", "node"),
    column("KIND", "kind"),
    column("PROTOCOL", "protocol"),
    wide("VPC", "vpc"),
    column("FROM", "from"),
    column("TO", "to"),
    column("VIA", "via"),
    wide("BACKEND", "backend"),
    column("PACKETS", "packets"),
    column("BYTES", "bytes"),
];

/// Connections the nodes' maps remember.
pub(crate) async fn list(
    source: &Source,
    limit: u32,
    kind: Option<FlowKind>,
) -> anyhow::Result<Rows> {
    let mut rows = Vec::new();
    for answer in source.view("flows", &format!("limit={limit}")).await? {
        for mut flow in answer.body.as_array().cloned().unwrap_or_default() {
            if kind.is_none_or(|kind| flow["kind"] == kind.name()) {
                flow["node"] = answer.node.as_str().into();
                rows.push(flow);
            }
        }
    }
    Ok(Rows::new(COLUMNS, rows, "No connection is remembered."))
}
