//! Events are news: they go an hour after they were told last, as upstream's do.

use std::time::Duration;

use fairlead_store::{CommitError, Entry, Expect, Op, Snapshot, Transaction};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use tracing::{debug, warn};

use crate::controller::Context;

const EVENTS: &str = "/registry/core/events/";
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How many go at a time: other writers wait behind each transaction.
const BATCH_MAX: usize = 256;
/// Between two batches.
const BATCH_PAUSE: Duration = Duration::from_millis(100);

/// Removes expired events for as long as this member leads.
pub(crate) async fn run(context: Context) {
    let lifetime = context.config.event_lifetime;
    loop {
        let snapshot = context.writer.store().snapshot();
        let expired = expired(&snapshot, Timestamp::now(), lifetime);
        let is_rest = expired.len() == BATCH_MAX;
        if !expired.is_empty() {
            remove(&context, &expired).await;
        }
        tokio::time::sleep(if is_rest { BATCH_PAUSE } else { LOOK_AGAIN }).await;
    }
}

async fn remove(context: &Context, expired: &[Entry]) {
    let ops = expired.iter().map(|entry| Op::Delete {
        key: entry.key.clone(),
        // One that was told again meanwhile stays.
        expect: Expect::Revision(entry.revision),
    });
    let transaction = Transaction {
        checks: Vec::new(),
        ops: ops.collect(),
    };
    match context.writer.store().commit(transaction).await {
        Ok(_) => debug!(count = expired.len(), "expired events removed"),
        Err(CommitError::Conflict { key, .. }) => {
            debug!(%key, "told again while it expired; the others go with the next look");
        }
        Err(cause) => warn!(
            error = &cause as &dyn std::error::Error,
            "expired events not removed; trying again"
        ),
    }
}

/// Some of the events that were told last before `lifetime`.
fn expired(snapshot: &Snapshot, now: Timestamp, lifetime: Duration) -> Vec<Entry> {
    let oldest = SignedDuration::try_from(lifetime)
        .ok()
        .and_then(|lifetime| now.checked_sub(lifetime).ok());
    let Some(oldest) = oldest else {
        return Vec::new();
    };
    let is_expired = |entry: &&Entry| {
        serde_json::from_slice(&entry.value)
            .is_ok_and(|event| told_last(&event).is_some_and(|told| told < oldest))
    };
    snapshot
        .range(EVENTS, None)
        .filter(is_expired)
        .take(BATCH_MAX)
        .cloned()
        .collect()
}

fn told_last(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref();
    [
        event
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0),
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        series.and_then(|series| series.last_observed_time.as_ref().map(|time| time.0)),
    ]
    .into_iter()
    .flatten()
    .max()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn event_is_as_young_as_its_last_telling() {
        let told = |more: Value| {
            let mut event = json!({
                "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
                "involvedObject": {},
            });
            for (key, value) in more.as_object().unwrap() {
                event[key] = value.clone();
            }
            let event: Event = serde_json::from_value(event).unwrap();
            told_last(&event).map(|time| time.to_string())
        };
        for (more, expected) in [
            (json!({}), "2026-01-01T00:00:00Z"),
            (
                json!({"lastTimestamp": "2026-01-01T00:30:00Z"}),
                "2026-01-01T00:30:00Z",
            ),
            (
                json!({"eventTime": "2026-01-01T00:10:00.000000Z"}),
                "2026-01-01T00:10:00Z",
            ),
            (
                json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T01:00:00.000000Z"}}),
                "2026-01-01T01:00:00Z",
            ),
        ] {
            assert_eq!(told(more.clone()).as_deref(), Some(expected), "{more}");
        }
    }
}
