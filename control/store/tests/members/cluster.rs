//! Three members in one process: elections, replication, reads, writes and restarts.

use std::{sync::Arc, time::Duration};

use crate::support::{
    CLUSTER, Cluster, PATIENCE, config, eventually, knows_leader, pod, put, shows,
};
use fairlead_api::Revision;
use fairlead_store::{CommitError, Expect, JoinError, Key, Limits, MemberId, OpenError, Store};
use tokio::time::timeout;

/// Small enough that a handful of writes makes snapshots and purges the log.
fn small() -> Limits {
    Limits {
        snapshot_entries: 50,
        log_entries_behind_snapshot: 10,
        segment_bytes: 16 << 10,
        ..Limits::default()
    }
}

async fn create(store: &Store, name: impl std::fmt::Display) -> Revision {
    let key = pod(name);
    let committed = store.commit(put(&key, Expect::Absent, "v")).await;
    committed.unwrap_or_else(|e| panic!("{key}: {e}")).revision
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_elect_one_leader_and_agree_who_it_is() {
    let cluster = Cluster::start(3, Limits::default()).await;
    let leader = cluster.leader().await;
    for member in 0..3 {
        let seen = knows_leader(cluster.store(member)).await;
        assert_eq!(
            seen.leader.expect("known").endpoint,
            cluster.endpoint(leader)
        );
        assert_eq!(seen.is_leader, member == leader);
        cluster
            .store(member)
            .linearizable()
            .await
            .expect("a quorum");
        let voters = || {
            let members = cluster.store(member).members();
            let voters = members.iter().filter(|m| m.voter).map(|m| m.id.0);
            voters.eq([1, 2, 3])
        };
        eventually("all three vote", voters).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_forwards_writes_and_shows_them_itself() {
    let cluster = Cluster::start(3, Limits::default()).await;
    for member in cluster.followers().await {
        let store = cluster.store(member);
        let revision = create(store, member).await;
        let snapshot = store.snapshot();
        assert!(snapshot.revision() >= revision);
        assert!(snapshot.get(&Key::raw(pod(member))).is_some());
        let again = store.commit(put(&pod(member), Expect::Absent, "v")).await;
        assert!(
            matches!(again, Err(CommitError::Conflict { actual: Some(at), .. }) if at == revision)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn linearizable_read_on_any_member_sees_every_acknowledged_write() {
    let cluster = Cluster::start(3, Limits::default()).await;
    for round in 0..30 {
        let (writer, reader) = (cluster.store(round % 3), cluster.store((round + 1) % 3));
        let revision = create(writer, round).await;
        let snapshot = reader.linearizable().await.expect("a quorum");
        assert!(snapshot.revision() >= revision, "round {round}");
        assert!(
            snapshot.get(&Key::raw(pod(round))).is_some(),
            "round {round}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_shut_down_under_load_loses_no_acknowledged_write_and_doubles_none() {
    let mut cluster = Cluster::start(3, small()).await;
    let followers = cluster.followers().await;
    let leader = cluster.leader().await;
    let writers: Vec<_> = followers
        .iter()
        .flat_map(|&member| (0..4).map(move |writer| (member, writer)))
        .map(|(member, writer)| {
            let store = cluster.store(member).clone();
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                for i in 0..50 {
                    // Created only if absent: a write applied twice would be a conflict.
                    revisions.push(create(&store, format!("{member}-{writer}-{i}")).await);
                }
                revisions
            })
        })
        .collect();
    shows(
        cluster.store(followers[0]),
        &pod(format!("{}-0-5", followers[0])),
    )
    .await;
    cluster.stop(leader).await;

    let mut revisions = Vec::new();
    for writer in writers {
        let written = timeout(PATIENCE, writer).await.expect("the others go on");
        revisions.extend(written.expect("every write is acknowledged once"));
    }
    revisions.sort();
    revisions.dedup();
    assert_eq!(revisions.len(), 8 * 50);
    for member in followers {
        let snapshot = cluster
            .store(member)
            .linearizable()
            .await
            .expect("a quorum");
        assert_eq!(snapshot.count(&pod(""), None), 8 * 50);
        assert_eq!(snapshot.revision(), Revision(8 * 50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn member_that_was_away_briefly_catches_up_from_the_log() {
    let mut cluster = Cluster::start(3, Limits::default()).await;
    let away = cluster.followers().await[0];
    create(cluster.store(away), "before").await;
    cluster.stop(away).await;
    let leader = cluster.leader().await;
    for i in 0..20 {
        create(cluster.store(leader), i).await;
    }
    cluster.restart(away).await;
    // What it had applied it has at once; the rest arrives.
    assert!(
        cluster
            .store(away)
            .snapshot()
            .get(&Key::raw(pod("before")))
            .is_some()
    );
    shows(cluster.store(away), &pod(19)).await;
    assert_eq!(cluster.store(away).snapshot().count(&pod(""), None), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn member_that_was_away_long_catches_up_from_a_snapshot_and_expires_its_watches() {
    let mut cluster = Cluster::start(3, small()).await;
    let away = cluster.followers().await[0];
    create(cluster.store(away), "before").await;
    cluster.stop(away).await;
    let leader = cluster.leader().await;
    for i in 0..200 {
        create(cluster.store(leader), i).await;
    }
    cluster.restart(away).await;
    let store = cluster.store(away);
    shows(store, &pod(199)).await;
    assert_eq!(store.snapshot().count(&pod(""), None), 201);
    let snapshots = std::fs::read_dir(cluster.data_dir(away).join("snapshots"));
    let files = snapshots.expect("the directory is there").count();
    assert!((1..=2).contains(&files), "{files} snapshots are kept");
    // Its rings know nothing of what the snapshot skipped.
    assert!(store.watch(&pod(""), Revision(1)).is_err());
    assert!(store.snapshot_at(Revision(1)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_stopped_and_started_again_has_everything() {
    let mut cluster = Cluster::start(3, small()).await;
    for i in 0..120 {
        create(cluster.store(i % 3), i).await;
    }
    for member in 0..3 {
        cluster.stop(member).await;
    }
    for member in 0..3 {
        cluster.restart(member).await;
    }
    for member in 0..3 {
        let snapshot = cluster
            .store(member)
            .linearizable()
            .await
            .expect("a quorum");
        assert_eq!(snapshot.revision(), Revision(120));
        assert_eq!(snapshot.count(&pod(""), None), 120);
    }
    assert_eq!(create(cluster.store(0), "after").await, Revision(121));
}

#[tokio::test(flavor = "multi_thread")]
async fn single_member_restarted_has_everything_before_it_leads_again() {
    let mut cluster = Cluster::start(1, small()).await;
    for i in 0..75 {
        create(cluster.store(0), i).await;
    }
    let before: Vec<_> = cluster
        .store(0)
        .snapshot()
        .range("", None)
        .cloned()
        .collect();
    cluster.stop(0).await;
    cluster.restart(0).await;
    let after: Vec<_> = cluster
        .store(0)
        .snapshot()
        .range("", None)
        .cloned()
        .collect();
    assert_eq!(before, after);
    cluster
        .store(0)
        .initialize()
        .await
        .expect("it does nothing");
    assert_eq!(create(cluster.store(0), "after").await, Revision(76));
}

#[tokio::test(flavor = "multi_thread")]
async fn minority_answers_unavailable_and_serves_what_it_has() {
    let mut cluster = Cluster::start(3, Limits::default()).await;
    create(cluster.store(0), "kept").await;
    for member in cluster.followers().await {
        cluster.stop(member).await;
    }
    let left = cluster.leader().await;
    let store = cluster.store(left);
    let read = timeout(Duration::from_secs(2), store.linearizable());
    assert!(
        !matches!(read.await, Ok(Ok(_))),
        "a minority must not read linearizably"
    );
    let write = timeout(
        Duration::from_secs(2),
        store.commit(put(&pod("lost"), Expect::Any, "v")),
    );
    assert!(
        !matches!(write.await, Ok(Ok(_))),
        "a minority must not acknowledge"
    );
    assert!(store.snapshot().get(&Key::raw(pod("kept"))).is_some());
    assert!(store.snapshot().get(&Key::raw(pod("lost"))).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_again_through_any_member_changes_nothing() {
    let cluster = Cluster::start(3, Limits::default()).await;
    for member in 0..2 {
        let joined = cluster.store(2).join(&cluster.endpoint(member)).await;
        joined.expect("it is a member already");
    }
    assert_eq!(cluster.store(0).members().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_voter_is_refused_and_replaced_under_a_new_id() {
    let mut cluster = Cluster::start(3, small()).await;
    for i in 0..100 {
        create(cluster.store(0), i).await;
    }
    cluster.stop(2).await;
    std::fs::remove_dir_all(cluster.data_dir(2)).expect("it is there");
    cluster.restart(2).await;
    let first = cluster.endpoint(0);
    match cluster.store(2).join(&first).await {
        Err(JoinError::Refused { member, .. }) => assert_eq!(member, MemberId(3)),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        cluster.store(2).snapshot().revision(),
        Revision(0),
        "it was sent nothing"
    );

    cluster
        .store(0)
        .remove_member(MemberId(3))
        .await
        .expect("removed");
    cluster.add(MemberId(4)).await;
    cluster
        .store(3)
        .join(&first)
        .await
        .expect("a new id is welcome");
    shows(cluster.store(3), &pod(99)).await;
    let replaced = || {
        let members = cluster.store(0).members();
        let members = members.iter().map(|m| (m.id.0, m.voter));
        members.eq([(1, true), (2, true), (4, true)])
    };
    eventually("4 votes in place of 3", replaced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn member_whose_log_cannot_be_written_stops_and_the_others_go_on() {
    let cluster = Cluster::start(3, small()).await;
    let leader = cluster.leader().await;
    // The next segment cannot be made.
    std::fs::remove_dir_all(cluster.data_dir(leader).join("log")).expect("it is there");
    let other = cluster.followers().await[0];
    let large = "x".repeat(1000);
    for i in 0..100 {
        let written = cluster
            .store(other)
            .commit(put(&pod(i), Expect::Absent, &large));
        written.await.expect("two members are a quorum");
    }
    timeout(PATIENCE, cluster.store(leader).stopped())
        .await
        .expect("it stops");
    let write = cluster
        .store(leader)
        .commit(put(&pod("x"), Expect::Any, "v"))
        .await;
    assert!(
        matches!(write, Err(CommitError::Unavailable(_))),
        "{write:?}"
    );
    assert!(!cluster.store(leader).leadership().borrow().is_leader);
    let snapshot = cluster.store(other).linearizable().await.expect("a quorum");
    assert_eq!(snapshot.count(&pod(""), None), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn member_of_another_cluster_is_refused() {
    let cluster = Cluster::start(1, Limits::default()).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut stranger = config(
        dir.path().to_owned(),
        MemberId(9),
        "http://127.0.0.1:1".to_owned(),
        Limits::default(),
    );
    stranger.cluster_id = "another".to_owned();
    let stranger = Store::open(stranger).await.expect("it opens");
    match stranger.join(&cluster.endpoint(0)).await {
        Err(JoinError::Refused { reason, .. }) => {
            assert!(
                reason.contains(CLUSTER) && reason.contains("another"),
                "{reason}"
            );
        }
        other => panic!("{other:?}"),
    }
    stranger.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_in_use_or_of_another_member_does_not_open() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let open = |member| {
        let endpoint = "http://127.0.0.1:1".to_owned();
        let data_dir = dir.path().to_owned();
        Store::open(config(
            data_dir,
            MemberId(member),
            endpoint,
            Limits::default(),
        ))
    };
    let store = open(1).await.expect("a new directory");
    assert!(matches!(open(1).await, Err(OpenError::Locked { .. })));
    store.shutdown().await;
    drop(store);
    let other = open(2).await;
    assert!(
        matches!(
            other,
            Err(OpenError::Foreign {
                member: MemberId(1),
                ..
            })
        ),
        "{other:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_increments_by_revision_lose_no_update() {
    let cluster = Arc::new(Cluster::start(3, Limits::default()).await);
    let key = pod("counter");
    let created = cluster
        .store(0)
        .commit(put(&key, Expect::Absent, "0@"))
        .await;
    created.expect("created");
    let workers: Vec<_> = (0..6)
        .map(|worker| {
            let store = cluster.store(worker % 3).clone();
            let key = key.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while done < 10 {
                    let snapshot = store.linearizable().await.expect("a quorum");
                    let entry = snapshot.get(&Key::raw(&*key)).expect("it exists");
                    let text = std::str::from_utf8(&entry.value).expect("text");
                    let count: u64 = text
                        .split('@')
                        .next()
                        .expect("one part")
                        .parse()
                        .expect("a number");
                    let next = format!("{}@", count + 1);
                    let expect = Expect::Revision(entry.revision);
                    match store.commit(put(&key, expect, &next)).await {
                        Ok(_) => done += 1,
                        Err(CommitError::Conflict { .. }) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        timeout(PATIENCE, worker)
            .await
            .expect("in time")
            .expect("no panic");
    }
    let snapshot = cluster.store(1).linearizable().await.expect("a quorum");
    let entry = snapshot.get(&Key::raw(&*key)).expect("it exists");
    assert!(entry.value.starts_with(b"60@"), "{:?}", entry.value);
}
