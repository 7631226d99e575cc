use std::{collections::VecDeque, io, time::Duration};

use bytes::Bytes;
use fairlead_api::{
    Revision,
    resource::Resource,
    status::{FieldError, Status},
    table,
};
use fairlead_store::{Entry, Event, Key, RevisionError, Snapshot, Watch, WatchError};
use futures::{Stream, stream};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    accept::Form,
    api::Api,
    query::Query,
    request::Request,
    response::{self, Presentation, Response},
    revision::{self, Freshness},
    selection::Selection,
};

/// How often a watcher that wants bookmarks learns how far it is, though nothing happened.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// A watch without a timeout of its own ends at a random time of this many seconds, so that the
/// watches of a cluster do not all return at once.
const TIMEOUT_SECONDS: std::ops::Range<u64> = 1_800..3_600;

/// Initial events are sent in pieces of about this size.
const PIECE_BYTES: usize = 32 * 1024;

/// What marks the bookmark behind the initial events (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Behind a revision the client has.
    After(Revision),
    /// With all that exists, then what happens; `marked` by a bookmark between the two.
    Initial { freshness: Freshness, marked: bool },
}

impl Start {
    fn of(query: &Query) -> Result<Self, Status> {
        let revision = revision::parse(query)?;
        let matching = query.get("resourceVersionMatch");
        let Some(initial) = query.flag("sendInitialEvents")? else {
            if matching.is_some() {
                return Err(revision::invalid(vec![FieldError::forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                )]));
            }
            return Ok(match revision {
                None => Self::initial(Freshness::Latest, false),
                Some(Revision(0)) => Self::initial(Freshness::Any, false),
                Some(revision) => Self::After(revision),
            });
        };
        if matching != Some("NotOlderThan") {
            return Err(revision::invalid(vec![FieldError::forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )]));
        }
        Ok(match (initial, revision) {
            (true, None) => Self::initial(Freshness::Latest, true),
            (true, Some(Revision(0))) => Self::initial(Freshness::Any, true),
            (true, Some(revision)) => Self::initial(Freshness::NotOlderThan(revision), true),
            (false, None | Some(Revision(0))) => Self::initial(Freshness::Latest, false),
            (false, Some(revision)) => Self::After(revision),
        })
    }

    fn initial(freshness: Freshness, marked: bool) -> Self {
        Self::Initial { freshness, marked }
    }
}

/// Follows a collection, or one object when `name` is given.
pub(crate) async fn watch(
    api: &Api,
    request: &Request,
    resource: &'static Resource,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<Response, Status> {
    let presentation = Presentation::of(request)?;
    let selection = match name {
        Some(name) => Selection::named(resource, name)?,
        None => Selection::parse(resource, &request.query)?,
    };
    let start = Start::of(&request.query)?;
    let seconds = match request.query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => seconds,
        _ => rand::rng().random_range(TIMEOUT_SECONDS),
    };
    let wants_bookmarks = request.query.flag("allowWatchBookmarks")?.unwrap_or(false);
    let prefix = Key::prefix(resource.group, resource.plural, namespace);
    let encoder = Encoder {
        resource,
        presentation,
        selection,
    };

    let (snapshot, after, marked) = match start {
        Start::After(revision) => (None, revision, false),
        Start::Initial { freshness, marked } => {
            let snapshot = revision::read(api, freshness).await?;
            let revision = snapshot.revision();
            (Some(snapshot), revision, marked)
        }
    };
    let watch = match open(api, &prefix, after).await {
        Ok(watch) => watch,
        // In a stream that has begun well, as a watch that falls behind later would see it.
        Err(status) if status.code == 410 => {
            let error = Encoder::error(&status);
            return Ok(response::stream(
                "application/json",
                stream::iter([Ok(error)]),
            ));
        }
        Err(status) => return Err(status),
    };
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let following = Following {
        initial: snapshot.map(|snapshot| encoder.initial(&snapshot, &prefix)),
        mark: marked.then_some(after),
        encoder,
        watch,
        deadline,
        bookmarks: wants_bookmarks.then(|| {
            let mut bookmarks = interval_at(Instant::now() + BOOKMARK_INTERVAL, BOOKMARK_INTERVAL);
            bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            bookmarks
        }),
        stopping: api.stopping.clone(),
        ended: false,
    };
    Ok(response::stream("application/json", following.pieces()))
}

/// Opens the store's watch; a member that lags first catches up with what was acknowledged.
async fn open(api: &Api, prefix: &str, after: Revision) -> Result<Watch, Status> {
    let refuse = |error| match error {
        RevisionError::Expired { oldest } => {
            Status::expired(format!("too old resource version: {after} ({oldest})"))
        }
        RevisionError::Future { current } => Status::too_large_resource_version(after, current),
    };
    match api.store.watch(prefix, after) {
        Err(RevisionError::Future { .. }) => {
            api.latest().await?;
            api.store.watch(prefix, after).map_err(refuse)
        }
        other => other.map_err(refuse),
    }
}

/// A watch under way.
struct Following {
    /// What exists, while it has not all been sent.
    initial: Option<VecDeque<Entry>>,
    /// The revision of the bookmark that ends the initial events, until it is sent.
    mark: Option<Revision>,
    encoder: Encoder,
    watch: Watch,
    deadline: Instant,
    bookmarks: Option<Interval>,
    stopping: CancellationToken,
    ended: bool,
}

impl Following {
    /// The body, piece by piece; made only as fast as the client reads.
    fn pieces(self) -> impl Stream<Item = Result<Bytes, io::Error>> + Send {
        stream::unfold(self, |mut following| async move {
            let piece = following.next().await?;
            Some((Ok(piece), following))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.next_initial() {
            return Some(piece);
        }
        if self.ended {
            return None;
        }
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return None,
                event = self.watch.next() => match event {
                    Ok(event) => {
                        if let Some(piece) = self.encoder.event(&event) {
                            return Some(piece);
                        }
                    }
                    Err(WatchError::Closed) => return None,
                    Err(WatchError::Expired) => {
                        self.ended = true;
                        let status = Status::expired("too old resource version: the watch fell behind");
                        return Some(Encoder::error(&status));
                    }
                },
                () = tick(self.bookmarks.as_mut()) => {
                    return Some(self.encoder.bookmark(self.watch.revision(), false));
                }
                () = sleep_until(self.deadline) => {
                    self.ended = true;
                    // A last one, so that the next watch begins where this one ends.
                    self.bookmarks.as_ref()?;
                    return Some(self.encoder.bookmark(self.watch.revision(), false));
                }
            }
        }
    }

    fn next_initial(&mut self) -> Option<Bytes> {
        let mut piece = Vec::new();
        if let Some(initial) = &mut self.initial {
            while piece.len() < PIECE_BYTES
                && let Some(entry) = initial.pop_front()
            {
                self.encoder.write(&mut piece, "ADDED", &entry.value);
            }
            if initial.is_empty() {
                self.initial = None;
            }
        }
        if self.initial.is_none()
            && let Some(revision) = self.mark.take()
        {
            piece.extend_from_slice(&self.encoder.bookmark(revision, true));
        }
        (!piece.is_empty()).then(|| piece.into())
    }
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Turns the store's events into what one client sees of them.
struct Encoder {
    resource: &'static Resource,
    presentation: Presentation,
    selection: Selection,
}

impl Encoder {
    fn initial(&self, snapshot: &Snapshot, prefix: &str) -> VecDeque<Entry> {
        snapshot
            .range(prefix, None)
            .filter(|entry| self.selection.matches(&entry.index))
            .cloned()
            .collect()
    }

    /// `None` for what happened outside the selection. Entering it is ADDED and leaving it
    /// DELETED, whatever happened to the object itself.
    fn event(&self, event: &Event) -> Option<Bytes> {
        let selected = |entry: &&Entry| self.selection.matches(&entry.index);
        let before = event.previous.as_ref().filter(selected);
        let after = event.current.as_ref().filter(selected);
        let mut piece = Vec::new();
        match (before, after) {
            (None, None) => return None,
            (None, Some(after)) => self.write(&mut piece, "ADDED", &after.value),
            (Some(_), Some(after)) => self.write(&mut piece, "MODIFIED", &after.value),
            (Some(before), None) => {
                let last = restamped(&before.value, event.revision);
                self.write(&mut piece, "DELETED", &last);
            }
        }
        Some(piece.into())
    }

    fn write(&self, piece: &mut Vec<u8>, kind: &str, object: &[u8]) {
        if self.presentation.form == Form::Object {
            frame(piece, kind, object);
            return;
        }
        // What the store holds was encoded by this program; were it not, the object as it is
        // says more than silence.
        let Ok(object) = serde_json::from_slice::<Value>(object) else {
            frame(piece, kind, object);
            return;
        };
        let shown = match self.presentation.form {
            Form::Object | Form::Metadata => response::partial(object),
            Form::Table => self.table(object),
        };
        frame(piece, kind, shown.to_string().as_bytes());
    }

    fn table(&self, object: Value) -> Value {
        let metadata = json!({ "resourceVersion": object.pointer("/metadata/resourceVersion") });
        let now = jiff::Timestamp::now();
        table::render(
            self.resource,
            &[object],
            now,
            self.presentation.include,
            metadata,
        )
    }

    /// Tells how far the watch is; `end` that the initial events are over.
    fn bookmark(&self, revision: Revision, end: bool) -> Bytes {
        let mut metadata = json!({
            "resourceVersion": revision.to_string(),
            "creationTimestamp": null,
        });
        if end {
            metadata["annotations"] = json!({ INITIAL_EVENTS_END: "true" });
        }
        let object = match self.presentation.form {
            Form::Object => json!({
                "kind": self.resource.kind,
                "apiVersion": self.resource.api_version(),
                "metadata": metadata,
            }),
            Form::Metadata => response::partial(json!({ "metadata": metadata })),
            Form::Table => {
                let list = json!({ "resourceVersion": revision.to_string() });
                let now = jiff::Timestamp::now();
                let mut table =
                    table::render(self.resource, &[], now, self.presentation.include, list);
                if end {
                    table["metadata"]["annotations"] = metadata["annotations"].take();
                }
                table
            }
        };
        let mut piece = Vec::new();
        frame(&mut piece, "BOOKMARK", object.to_string().as_bytes());
        piece.into()
    }

    fn error(status: &Status) -> Bytes {
        let mut piece = Vec::new();
        frame(&mut piece, "ERROR", status.to_json().to_string().as_bytes());
        piece.into()
    }
}

/// One line of a watch's answer.
fn frame(piece: &mut Vec<u8>, kind: &str, object: &[u8]) {
    piece.extend_from_slice(br#"{"type":""#);
    piece.extend_from_slice(kind.as_bytes());
    piece.extend_from_slice(br#"","object":"#);
    piece.extend_from_slice(object);
    piece.extend_from_slice(b"}\n");
}

/// A deleted object as it was, at the revision of its deletion: a watch that goes on from there
/// must not see the deletion again.
fn restamped(object: &[u8], revision: Revision) -> Vec<u8> {
    match serde_json::from_slice::<Value>(object) {
        Ok(mut value) => {
            value["metadata"]["resourceVersion"] = revision.to_string().into();
            value.to_string().into_bytes()
        }
        Err(_) => object.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_follows_the_options() {
        let latest = Start::initial(Freshness::Latest, false);
        let cases = [
            ("", Ok(latest)),
            (
                "resourceVersion=0",
                Ok(Start::initial(Freshness::Any, false)),
            ),
            ("resourceVersion=7", Ok(Start::After(Revision(7)))),
            ("resourceVersionMatch=NotOlderThan", Err(422)),
            ("sendInitialEvents=true", Err(422)),
            (
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
                Ok(Start::initial(Freshness::Latest, true)),
            ),
            (
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=7",
                Ok(Start::initial(Freshness::NotOlderThan(Revision(7)), true)),
            ),
            (
                "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=7",
                Ok(Start::After(Revision(7))),
            ),
        ];
        for (query, expected) in cases {
            let found = Start::of(&Query::parse(Some(query)));
            assert_eq!(found.map_err(|status| status.code), expected, "{query}");
        }
    }

    #[test]
    fn deleted_object_carries_the_revision_of_its_deletion() {
        let object = br#"{"metadata":{"resourceVersion":"3","name":"x"}}"#;
        let value: Value = serde_json::from_slice(&restamped(object, Revision(9))).unwrap();
        assert_eq!(value["metadata"]["resourceVersion"], "9");
    }
}
