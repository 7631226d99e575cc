//! `netctl node` and `netctl status`.

use anyhow::bail;
use serde_json::Value;

use crate::{
    source::Source,
    table::{Column, Rows, column, wide},
};

const NODES: &[Column] = &[
    column("SEEN FROM", "from"),
    column("NODE", "name"),
    wide("ID", "id"),
    column("ADDRESS", "address"),
    column("NEXT HOP", "mac"),
    column("RESOLVED", "resolved"),
    column("MTU", "mtu"),
    wide("PASSED ON", "passedOn"),
];

const STATUS: &[Column] = &[
    column("NODE", "node"),
    column("CONNECTED", "connected"),
    column("DESIRED", "desiredGeneration"),
    column("IN MAPS", "acknowledgedGeneration"),
    column("LAG MS", "lagMs"),
    column("ERROR", "error"),
];

const OWN_STATUS: &[Column] = &[
    column("NODE", "node"),
    column("ADDRESS", "address"),
    column("PODS", "podRanges"),
    column("IN MAPS", "generation"),
    column("SYNCED", "synced"),
    wide("SERVED BY", "servedByVersion"),
    column("DROPS", "drops"),
];

/// How each node reaches the others.
pub(crate) async fn list(source: &Source) -> anyhow::Result<Rows> {
    let mut rows = Vec::new();
    for answer in source.view("nodes", "").await? {
        for mut node in answer.body.as_array().cloned().unwrap_or_default() {
            node["from"] = answer.node.as_str().into();
            rows.push(node);
        }
    }
    rows.sort_by_key(|row| (text(&row["from"]), text(&row["name"])));
    Ok(Rows::new(NODES, rows, "The maps hold no other node."))
}

/// What each node should hold and what it holds.
pub(crate) async fn status(source: &Source) -> anyhow::Result<Rows> {
    let columns = match source {
        Source::Cluster { .. } => STATUS,
        Source::Agent(_) => OWN_STATUS,
    };
    let mut rows = source.status().await?;
    if let Source::Cluster {
        node: Some(node), ..
    } = source
    {
        rows.retain(|row| row["node"] == node.as_str());
        if rows.is_empty() {
            bail!("node {node} has never connected (see `netctl status`)");
        }
    }
    Ok(Rows::new(columns, rows, "No node has ever connected."))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
