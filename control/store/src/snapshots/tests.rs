use std::{fs, sync::Arc};

use fairlead_api::Index;
use openraft::{alias::CommittedLeaderIdOf, vote::RaftLeaderIdExt};
use tempfile::TempDir;

use super::*;
use crate::{
    Expect, Key, Op, RevisionedBytes, Transaction,
    raft::{SnapshotMeta, TypeConfig},
    state::{Command, ProposerId, State},
};

fn id(index: u64) -> LogId {
    LogId::new(
        CommittedLeaderIdOf::<TypeConfig>::new_committed(1, 1),
        index,
    )
}

fn state(objects: u64) -> State {
    let mut state = State::default();
    for sequence in 0..objects {
        let labels = [("app".to_owned(), format!("a{sequence}"))].into();
        let op = Op::Put {
            key: Key::raw(format!("/registry/core/pods/ns/{sequence}")),
            expect: Expect::Any,
            value: RevisionedBytes {
                head: vec![b'v'; 3000].into(),
                tail: Default::default(),
            },
            index: Arc::new(Index {
                labels,
                fields: Default::default(),
            }),
        };
        state.apply(&Command {
            proposer: ProposerId(9),
            sequence,
            answered_below: sequence.saturating_sub(3),
            transaction: Transaction {
                checks: Vec::new(),
                ops: vec![op],
            },
        });
    }
    state
}

/// A directory with a snapshot at each index, of as many objects.
fn kept(indexes: &[u64]) -> (TempDir, Snapshots) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let snapshots = Snapshots::open(dir.path()).expect("a new directory");
    for &index in indexes {
        let meta = SnapshotMeta {
            last_log_id: Some(id(index)),
            ..SnapshotMeta::default()
        };
        let path = snapshots.unfinished();
        write(&path, &meta, &state(index)).expect("written");
        snapshots.keep(&path, meta.last_log_id).expect("kept");
    }
    (dir, snapshots)
}

#[test]
fn snapshot_read_back_is_the_state_that_was_written() {
    // Enough for several blocks.
    let (_dir, snapshots) = kept(&[1000]);
    let (_, contents) = snapshots
        .latest(None)
        .expect("readable")
        .expect("there is one");
    assert_eq!(contents.meta.last_log_id, Some(id(1000)));
    assert_eq!(contents.state, state(1000));
}

#[test]
fn two_newest_snapshots_are_kept() {
    let (dir, _snapshots) = kept(&[1, 2, 3, 10]);
    let files = fs::read_dir(dir.path()).expect("it is there");
    let mut names: Vec<_> = files.map(|f| f.expect("readable").file_name()).collect();
    names.sort();
    assert_eq!(
        names,
        ["00000000000000000003.snap", "00000000000000000010.snap"]
    );
}

#[test]
fn flipped_or_missing_byte_anywhere_is_noticed() {
    let (_dir, snapshots) = kept(&[2]);
    let (file, _) = snapshots
        .latest(None)
        .expect("readable")
        .expect("there is one");
    let whole = fs::read(file.path()).expect("it is there");
    let check = |bytes: &[u8], what: String| {
        let path = snapshots.unfinished();
        fs::write(&path, bytes).expect("writable");
        let read = SnapshotFile::open(&path).and_then(|file| read(&file));
        assert!(read.is_err(), "{what} was not noticed");
        fs::remove_file(path).expect("it is there");
    };
    for at in (0..whole.len()).step_by(13) {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        check(&bytes, format!("the flip of byte {at}"));
        check(&whole[..at], format!("the end at {at}"));
    }
    check(&[&whole[..], b"x"].concat(), "a byte too many".to_owned());
}

#[test]
fn older_snapshot_serves_when_the_newest_is_damaged_and_the_log_reaches_back() {
    let (dir, snapshots) = kept(&[3, 6]);
    let newest = dir.path().join("00000000000000000006.snap");
    fs::write(&newest, b"FLSNAP").expect("writable");
    let (_, contents) = snapshots
        .latest(Some(id(2)))
        .expect("readable")
        .expect("the older");
    assert_eq!(contents.meta.last_log_id, Some(id(3)));
    // A log that begins behind the older one would leave a hole.
    assert!(matches!(
        snapshots.latest(Some(id(5))),
        Err(OpenError::DamagedSnapshot { path, .. }) if path == newest
    ));
}

#[test]
fn missing_snapshot_refuses_to_open_a_purged_log() {
    let (_dir, snapshots) = kept(&[]);
    assert!(snapshots.latest(None).expect("nothing yet").is_none());
    assert!(snapshots.latest(Some(id(4))).is_err());
}

#[test]
fn unfinished_files_are_cleared_on_opening() {
    let (dir, snapshots) = kept(&[1]);
    let path = snapshots.unfinished();
    fs::write(&path, b"half").expect("writable");
    Snapshots::open(dir.path()).expect("the same directory");
    assert!(!path.exists());
}
