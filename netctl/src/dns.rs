//! `netctl dns`: how nodes answer for names.

use anyhow::bail;
use serde_json::{Value, json};

use crate::{
    source::Source,
    table::{Column, Rows, column, wide},
};

const SUMMARIES: &[Column] = &[
    column("NODE", "node"),
    column("DOMAIN", "domain"),
    column("SERVICES", "services"),
    column("QUERIES", "queries"),
    column("CLUSTER", "cluster"),
    column("CACHE HITS", "cacheHits"),
    column("FORWARDED", "forwarded"),
    column("FAILED", "failed"),
    wide("CACHED", "cached"),
    wide("ASKED AT", "listen"),
    wide("UPSTREAMS", "upstreams"),
];

/// Counters with a column of their own.
const COUNTED: [(&str, &str); 4] = [
    ("cluster", "cluster"),
    ("cacheHits", "cache_hits"),
    ("forwarded", "forwarded"),
    ("failed", "responses_servfail"),
];

const COUNTERS: &[Column] = &[
    column("NODE", "node"),
    column("COUNTER", "counter"),
    column("COUNT", "count"),
];

const ANSWERS: &[Column] = &[
    column("NODE", "node"),
    column("STATUS", "status"),
    column("SECTION", "section"),
    column("RECORD", "record"),
];

/// What each node's DNS knows and did.
pub(crate) async fn list(source: &Source) -> anyhow::Result<Rows> {
    let mut rows = Vec::new();
    for answer in source.view("dns", "").await? {
        let mut row = answer.body;
        let zones = row["zones"].as_array().cloned().unwrap_or_default();
        let services = zones.iter().filter_map(|zone| zone["services"].as_u64());
        row["services"] = services.sum::<u64>().into();
        let count = |name: &str| row["counters"][name].as_u64().unwrap_or_default();
        row["queries"] = (count("queries_udp") + count("queries_tcp")).into();
        row["node"] = answer.node.into();
        for (field, counter) in COUNTED {
            row[field] = row["counters"][counter].clone();
        }
        rows.push(row);
    }
    sort(&mut rows);
    Ok(Rows::new(SUMMARIES, rows, "No node answers for names."))
}

/// What each node's DNS counted.
pub(crate) async fn counters(source: &Source, all: bool) -> anyhow::Result<Rows> {
    let mut rows = Vec::new();
    for answer in source.view("dns", "").await? {
        for (counter, count) in answer.body["counters"].as_object().into_iter().flatten() {
            if all || count.as_u64() != Some(0) {
                rows.push(json!({"node": answer.node, "counter": counter, "count": count}));
            }
        }
    }
    Ok(Rows::new(COUNTERS, rows, "Nothing was asked yet."))
}

/// What each node answers to a question.
pub(crate) async fn query(source: &Source, name: &str, kind: &str) -> anyhow::Result<Rows> {
    for text in [name, kind] {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
        if text.is_empty() || !text.bytes().all(is_plain) {
            bail!("{text:?} is no name, and no type of records");
        }
    }
    let mut rows = Vec::new();
    for answer in source
        .view("dns", &format!("name={name}&type={kind}"))
        .await?
    {
        let sections = [("answer", "answers"), ("authority", "authorities")];
        let before = rows.len();
        for (section, field) in sections {
            for record in answer.body[field].as_array().into_iter().flatten() {
                rows.push(row(&answer.node, &answer.body["status"], section, record));
            }
        }
        if rows.len() == before {
            let none = Value::from("none");
            rows.push(row(&answer.node, &answer.body["status"], "answer", &none));
        }
    }
    Ok(Rows::new(ANSWERS, rows, "No node answers for names."))
}

fn row(node: &str, status: &Value, section: &str, record: &Value) -> Value {
    json!({"node": node, "status": status, "section": section, "record": record})
}

fn sort(rows: &mut [Value]) {
    rows.sort_by_key(|row| row["node"].as_str().unwrap_or_default().to_owned());
}
