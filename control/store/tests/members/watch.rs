//! Watches and past revisions, on one member.

use std::time::Duration;

use crate::support::{Cluster, PATIENCE, delete, pod, put};
use fairlead_api::Revision;
use fairlead_store::{Event, Expect, Key, Limits, RevisionError, Store, Watch, WatchError};
use tokio::time::timeout;

async fn write(store: &Store, key: &str, text: &str) -> Revision {
    let committed = store.commit(put(key, Expect::Any, text)).await;
    committed.expect("committed").revision
}

async fn next(watch: &mut Watch) -> Event {
    let event = timeout(PATIENCE, watch.next()).await;
    event.expect("an event in time").expect("the watch goes on")
}

fn config_map(name: impl std::fmt::Display) -> String {
    format!("/registry/core/configmaps/default/{name}")
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_from_a_revision_gets_every_later_mutation_in_order() {
    let cluster = Cluster::start(1, Limits::default()).await;
    let store = cluster.store(0);
    for i in 0..10 {
        write(store, &pod(i), "old").await;
    }
    let mut watch = store.watch(&pod(""), Revision(5)).expect("it is kept");
    for i in 0..10 {
        write(store, &config_map(i), "other resource").await;
        write(store, "/registry/core/pods/elsewhere/x", "other namespace").await;
        write(store, &pod(i), "new").await;
    }
    store.commit(delete(&pod(3))).await.expect("deleted");
    for expected in 6..=10 {
        let event = next(&mut watch).await;
        assert_eq!(event.revision, Revision(expected));
        assert_eq!(event.previous, None, "created");
    }
    for i in 0..10 {
        let event = next(&mut watch).await;
        assert_eq!(event.key().as_str(), pod(i));
        assert_eq!(event.revision, Revision(13 + 3 * i));
        let previous = event.previous.expect("replaced");
        assert_eq!(previous.revision, Revision(i + 1));
    }
    let event = next(&mut watch).await;
    assert_eq!((event.revision, event.current), (Revision(41), None));
    let deleted = event.previous.expect("it was there");
    assert_eq!(deleted.value, "new22");
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_under_concurrent_writes_has_no_gap_and_no_repeat() {
    let cluster = Cluster::start(1, Limits::default()).await;
    let store = cluster.store(0);
    let mut watch = store.watch("/registry/", Revision(0)).expect("it is kept");
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..50 {
                    write(&store, &pod(format!("{writer}-{i}")), "v").await;
                }
            })
        })
        .collect();
    for expected in 1..=400 {
        assert_eq!(next(&mut watch).await.revision, Revision(expected));
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_watch_follows_the_revision_of_other_resources_for_its_bookmarks() {
    let cluster = Cluster::start(1, Limits::default()).await;
    let store = cluster.store(0);
    write(store, &pod("a"), "v").await;
    let mut watch = store.watch(&pod(""), Revision(0)).expect("it is kept");
    write(store, &config_map("c"), "v").await;
    assert_eq!(
        watch.revision(),
        Revision(0),
        "one mutation is still to come"
    );
    assert_eq!(next(&mut watch).await.revision, Revision(1));
    assert_eq!(watch.revision(), Revision(2));
    let resumed = store.watch(&pod(""), watch.revision()).expect("it is kept");
    assert_eq!(resumed.revision(), Revision(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn next_dropped_halfway_loses_nothing() {
    let cluster = Cluster::start(1, Limits::default()).await;
    let store = cluster.store(0);
    let mut watch = store.watch(&pod(""), Revision(0)).expect("it is kept");
    assert!(
        timeout(Duration::from_millis(20), watch.next())
            .await
            .is_err()
    );
    write(store, &pod("a"), "v").await;
    assert_eq!(next(&mut watch).await.revision, Revision(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn watcher_that_falls_off_the_ring_is_told_and_others_go_on() {
    let limits = Limits {
        ring_events: 10,
        ..Limits::default()
    };
    let cluster = Cluster::start(1, limits).await;
    let store = cluster.store(0);
    let mut slow = store.watch(&pod(""), Revision(0)).expect("it is kept");
    let mut elsewhere = store
        .watch(&config_map(""), Revision(0))
        .expect("it is kept");
    for i in 0..11 {
        write(store, &pod(i), "v").await;
    }
    assert_eq!(slow.next().await, Err(WatchError::Expired));
    assert_eq!(slow.next().await, Err(WatchError::Expired));
    write(store, &config_map("c"), "v").await;
    assert_eq!(next(&mut elsewhere).await.revision, Revision(12));

    let expired = store
        .watch(&pod(""), Revision(0))
        .expect_err("it is forgotten");
    assert_eq!(
        expired,
        RevisionError::Expired {
            oldest: Revision(1)
        }
    );
    let mut kept = store.watch(&pod(""), Revision(1)).expect("the oldest kept");
    assert_eq!(next(&mut kept).await.revision, Revision(2));
    let future = store
        .watch(&pod(""), Revision(99))
        .expect_err("it is not there yet");
    assert_eq!(
        future,
        RevisionError::Future {
            current: Revision(12)
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ring_is_bounded_by_bytes_too() {
    let limits = Limits {
        ring_bytes: 10_000,
        ..Limits::default()
    };
    let cluster = Cluster::start(1, limits).await;
    let store = cluster.store(0);
    let text = "x".repeat(3000);
    for i in 0..5 {
        write(store, &pod(i), &text).await;
    }
    assert!(store.watch(&pod(""), Revision(1)).is_err());
    assert!(store.watch(&pod(""), Revision(3)).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_watches() {
    let mut cluster = Cluster::start(1, Limits::default()).await;
    let mut watch = cluster
        .store(0)
        .watch(&pod(""), Revision(0))
        .expect("it is kept");
    let waiting = tokio::spawn(async move { watch.next().await });
    cluster.stop(0).await;
    let ended = timeout(PATIENCE, waiting).await.expect("in time");
    assert_eq!(ended.expect("no panic"), Err(WatchError::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn past_revisions_can_be_read_until_they_are_forgotten() {
    let limits = Limits {
        history_events: 600,
        ..Limits::default()
    };
    let cluster = Cluster::start(1, limits).await;
    let store = cluster.store(0);
    // A key is put, replaced and deleted in turn, so that undoing has all three to do.
    let mut expected = vec![Vec::new()];
    let keys = |store: &Store| -> Vec<_> {
        let snapshot = store.snapshot();
        snapshot
            .range("", None)
            .map(|e| (e.key.clone(), e.value.clone()))
            .collect()
    };
    for i in 0..800u32 {
        let key = pod(i * 7 % 20);
        if i % 3 == 2 && store.snapshot().get(&Key::raw(&*key)).is_some() {
            store.commit(delete(&key)).await.expect("deleted");
        } else {
            write(store, &key, &format!("{i}@")).await;
        }
        expected.push(keys(store));
    }
    for (revision, expected) in expected.iter().enumerate() {
        let past = store.snapshot_at(Revision(revision as u64));
        if revision < 200 {
            assert_eq!(
                past.expect_err("forgotten"),
                RevisionError::Expired {
                    oldest: Revision(200)
                }
            );
            continue;
        }
        let past = past.expect("kept");
        assert_eq!(past.revision(), Revision(revision as u64));
        let found: Vec<_> = past
            .range("", None)
            .map(|e| (e.key.clone(), e.value.clone()))
            .collect();
        assert_eq!(&found, expected, "revision {revision}");
    }
    let future = store.snapshot_at(Revision(801)).expect_err("not there yet");
    assert_eq!(
        future,
        RevisionError::Future {
            current: Revision(800)
        }
    );
}
