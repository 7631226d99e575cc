use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use fairlead_api::Revision;
use fairlead_store::{Event, Store, WatchError};
use tokio::sync::watch;
use tracing::{error, warn};

use crate::{Cache, Change};

const PREFIX: &str = "/registry/";

/// Keeps a [`Cache`] current from the store's watch, in process: no copy of the bytes, no wire.
#[derive(Clone)]
pub struct Informer {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    cache: RwLock<Cache>,
    revision: watch::Sender<Revision>,
}

impl Informer {
    /// An informer with an empty cache; [`run`](Self::run) fills it.
    pub fn new(store: Store) -> Self {
        let shared = Shared {
            store,
            cache: RwLock::new(Cache::default()),
            revision: watch::Sender::new(Revision(0)),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The cache as it is now, in constant time.
    pub fn cache(&self) -> Cache {
        self.shared
            .cache
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until the cache holds the write of `revision`, so that a controller never plans
    /// without having seen what it did last.
    pub async fn reached(&self, revision: Revision) {
        let mut seen = self.shared.revision.subscribe();
        // The sender lives as long as `self`.
        let _ = seen.wait_for(|at| *at >= revision).await;
    }

    /// Lists, then watches until the store closes, telling `observe` of every change after the cache holds it.
    /// When the watch falls off the store's window it lists again: what changed meanwhile is seen
    /// as one change an object.
    pub async fn run(&self, mut observe: impl FnMut(&Change) + Send) {
        loop {
            let listed = self.list(&mut observe);
            let mut watch = match self.shared.store.watch(PREFIX, listed) {
                Ok(watch) => watch,
                Err(cause) => {
                    warn!(%cause, %listed, "watch could not start where the list ended; listing again");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            loop {
                match watch.next().await {
                    Ok(event) => self.take(&event, &mut observe),
                    Err(WatchError::Closed) => return,
                    Err(cause @ WatchError::Expired) => {
                        warn!(%cause, "listing again");
                        break;
                    }
                }
            }
        }
    }

    fn list(&self, observe: &mut (impl FnMut(&Change) + Send)) -> Revision {
        let snapshot = self.shared.store.snapshot();
        let mut gone: HashSet<_> = self.cache().keys().into_iter().collect();
        let mut changes = Vec::new();
        {
            let mut cache = self
                .shared
                .cache
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            for entry in snapshot.range(PREFIX, None) {
                gone.remove(&entry.key);
                match cache.apply(&entry.key, Some(&entry.value), entry.revision) {
                    Ok(change) => changes.extend(change),
                    Err(cause) => error!(key = %entry.key, %cause, "an object cannot be decoded"),
                }
            }
            for key in gone {
                changes.extend(cache.apply(&key, None, snapshot.revision()).ok().flatten());
            }
            cache.observed(snapshot.revision());
        }
        for change in &changes {
            observe(change);
        }
        self.shared.revision.send_replace(snapshot.revision());
        snapshot.revision()
    }

    fn take(&self, event: &Event, observe: &mut (impl FnMut(&Change) + Send)) {
        let Some(entry) = event.current.as_ref().or(event.previous.as_ref()) else {
            return;
        };
        let value = event.current.as_ref().map(|entry| &entry.value[..]);
        let applied = self
            .shared
            .cache
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .apply(&entry.key, value, event.revision);
        match applied {
            Ok(Some(change)) => observe(&change),
            Ok(None) => {}
            Err(cause) => error!(key = %entry.key, %cause, "an object cannot be decoded"),
        }
        self.shared.revision.send_replace(event.revision);
    }
}
