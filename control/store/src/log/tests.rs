use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use openraft::{
    EntryPayload, RaftLogReader,
    alias::CommittedLeaderIdOf,
    entry::RaftEntry,
    storage::{RaftLogStorage, RaftLogStorageExt},
    vote::RaftLeaderIdExt,
};
use tempfile::TempDir;

use super::*;
use crate::{
    Expect, Key, Op, OpenError, RevisionedBytes, Transaction,
    raft::TypeConfig,
    state::{Command, ProposerId},
};

const SEGMENT_BYTES: u64 = 64 << 20;

fn id(term: u64, index: u64) -> LogId {
    LogId::new(
        CommittedLeaderIdOf::<TypeConfig>::new_committed(term, 1),
        index,
    )
}

fn entry(term: u64, index: u64, bytes: usize) -> LogEntry {
    let command = Command {
        proposer: ProposerId(1),
        sequence: index,
        answered_below: index,
        transaction: Transaction {
            checks: Vec::new(),
            ops: vec![Op::Put {
                key: Key::raw("/registry/core/pods/ns/name"),
                expect: Expect::Any,
                value: RevisionedBytes {
                    head: vec![b'x'; bytes].into(),
                    tail: Default::default(),
                },
                index: Default::default(),
            }],
        },
    };
    LogEntry::new(id(term, index), EntryPayload::Normal(command))
}

async fn append(log: &mut Log, entries: impl IntoIterator<Item = LogEntry>) {
    let entries: Vec<_> = entries.into_iter().collect();
    log.blocking_append(entries)
        .await
        .expect("the disk takes it");
}

async fn indexes(log: &mut Log) -> Vec<u64> {
    let entries = log.try_get_log_entries(..).await.expect("in memory");
    entries.iter().map(|entry| entry.log_id.index).collect()
}

fn open(dir: &Path) -> Result<Log, OpenError> {
    Log::open(dir, SEGMENT_BYTES)
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let segments = segment::Segment::list(dir).expect("the directory is there");
    segments.into_iter().map(|segment| segment.path).collect()
}

/// A log of ten entries, each in a frame of its own, and where each frame ends.
async fn ten_entries() -> (TempDir, PathBuf, Vec<u64>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut log = open(dir.path()).expect("a new log");
    let path = segments(dir.path())[0].clone();
    let mut ends = Vec::new();
    for index in 0..10 {
        append(&mut log, [entry(1, index, 100)]).await;
        ends.push(fs::metadata(&path).expect("it is there").len());
    }
    log.close();
    (dir, path, ends)
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)
        .expect("within the file");
    file.write_all_at(&[byte[0] ^ 0x10], offset)
        .expect("writable");
}

#[tokio::test]
async fn reopened_log_has_vote_commit_mark_and_entries() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let vote = Vote::new(3, 1);
    let mut log = open(dir.path()).expect("a new log");
    assert!(log.is_pristine());
    log.save_vote(&vote).await.expect("saved");
    append(&mut log, (0..=5).map(|index| entry(3, index, 10))).await;
    log.save_committed(Some(id(3, 4))).await.expect("queued");
    log.truncate_after(Some(id(3, 4))).await.expect("queued");
    append(&mut log, [entry(4, 5, 10), entry(4, 6, 10)]).await;
    log.purge(id(3, 2)).await.expect("queued");
    log.close();

    let mut log = open(dir.path()).expect("the same log");
    assert!(!log.is_pristine());
    assert_eq!(log.read_vote().await.expect("in memory"), Some(vote));
    assert_eq!(
        log.read_committed().await.expect("in memory"),
        Some(id(3, 4))
    );
    assert_eq!(log.purged(), Some(id(3, 2)));
    assert_eq!(indexes(&mut log).await, [3, 4, 5, 6]);
    let last = log.get_log_state().await.expect("in memory").last_log_id;
    assert_eq!(last, Some(id(4, 6)));
}

#[tokio::test]
async fn torn_last_record_is_cut_wherever_it_was_torn() {
    let (dir, path, ends) = ten_entries().await;
    let whole = fs::read(&path).expect("it is there");
    for length in ends[8] + 1..ends[9] {
        fs::write(&path, &whole[..length as usize]).expect("writable");
        let mut log = open(dir.path()).unwrap_or_else(|e| panic!("cut at {length}: {e}"));
        assert_eq!(indexes(&mut log).await, (0..9).collect::<Vec<_>>());
        // It goes on where the cut was.
        append(&mut log, [entry(2, 9, 1)]).await;
        log.close();
        let mut log = open(dir.path()).expect("whole again");
        assert_eq!(indexes(&mut log).await, (0..10).collect::<Vec<_>>());
        log.close();
    }
}

#[tokio::test]
async fn zeros_or_garbage_in_place_of_the_last_record_are_cut() {
    let (dir, path, ends) = ten_entries().await;
    let whole = fs::read(&path).expect("it is there");
    for filler in [0, 0xff] {
        let mut bytes = whole[..ends[8] as usize].to_vec();
        bytes.resize(whole.len() + 4096, filler);
        fs::write(&path, &bytes).expect("writable");
        let mut log = open(dir.path()).expect("the tail is torn");
        assert_eq!(indexes(&mut log).await, (0..9).collect::<Vec<_>>());
        log.close();
        assert_eq!(fs::metadata(&path).expect("it is there").len(), ends[8]);
    }
}

#[tokio::test]
async fn flipped_bit_before_the_last_record_refuses_to_open() {
    let (dir, path, ends) = ten_entries().await;
    let whole = fs::read(&path).expect("it is there");
    // Every byte of the sixth frame (its length field among them), and of the file's head.
    for offset in (0..8).chain(ends[4]..ends[5]) {
        flip(&path, offset);
        match open(dir.path()) {
            Err(OpenError::DamagedLog { offset: at, .. }) => {
                assert_eq!(at, if offset < 8 { 0 } else { ends[4] });
            }
            other => panic!("byte {offset} flipped, yet {other:?}"),
        }
        assert_eq!(
            fs::metadata(&path).expect("it is there").len(),
            whole.len() as u64
        );
        flip(&path, offset);
    }
    let mut log = open(dir.path()).expect("nothing was written");
    assert_eq!(indexes(&mut log).await.len(), 10);
}

#[tokio::test]
async fn damage_in_a_segment_that_is_not_the_last_refuses_to_open() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut log = Log::open(dir.path(), 1000).expect("a new log");
    for index in 0..30 {
        append(&mut log, [entry(1, index, 100)]).await;
    }
    log.close();
    let paths = segments(dir.path());
    assert!(paths.len() > 2, "{paths:?}");
    let whole = fs::read(&paths[0]).expect("it is there");
    fs::write(&paths[0], &whole[..whole.len() - 1]).expect("writable");
    assert!(matches!(
        open(dir.path()),
        Err(OpenError::DamagedLog { .. })
    ));
    fs::write(&paths[0], &whole).expect("writable");
    fs::remove_file(&paths[1]).expect("it is there");
    assert!(matches!(
        open(dir.path()),
        Err(OpenError::DamagedLog { .. })
    ));
}

#[tokio::test]
async fn crash_while_a_segment_is_made_leaves_a_log_that_opens() {
    let (dir, path, _) = ten_entries().await;
    let next = path.with_file_name("0000000000000002.wal");
    for torn in [&b""[..], b"FLW", b"\0\0\0\0\0\0\0\0"] {
        fs::write(&next, torn).expect("writable");
        let mut log = open(dir.path()).expect("the new segment is torn");
        assert_eq!(indexes(&mut log).await.len(), 10);
        log.close();
    }
}

#[tokio::test]
async fn purged_segments_are_removed_and_the_rest_still_opens() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let vote = Vote::new(7, 2);
    let mut log = Log::open(dir.path(), 1000).expect("a new log");
    log.save_vote(&vote).await.expect("saved");
    for index in 0..=100 {
        append(&mut log, [entry(1, index, 100)]).await;
    }
    let before = segments(dir.path()).len();
    log.purge(id(1, 90)).await.expect("queued");
    append(&mut log, [entry(1, 101, 1)]).await;
    log.close();
    let after = segments(dir.path()).len();
    assert!(
        before > 5 && after < before / 2,
        "{before} segments, then {after}"
    );

    let mut log = Log::open(dir.path(), 1000).expect("the rest");
    assert_eq!(log.read_vote().await.expect("in memory"), Some(vote));
    assert_eq!(log.purged(), Some(id(1, 90)));
    assert_eq!(indexes(&mut log).await, (91..=101).collect::<Vec<_>>());
}

#[tokio::test]
async fn message_to_a_follower_is_bounded_by_bytes_but_never_empty() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut log = open(dir.path()).expect("a new log");
    append(&mut log, (0..=5).map(|index| entry(1, index, 1 << 20))).await;
    append(&mut log, [entry(1, 6, 4 << 20)]).await;
    let count = async |log: &mut Log, start| {
        log.limited_get_log_entries(start, 7)
            .await
            .expect("in memory")
            .len()
    };
    assert_eq!(count(&mut log, 1).await, 1);
    assert_eq!(count(&mut log, 6).await, 1);
}

#[tokio::test]
async fn many_appends_share_an_fsync() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut log = open(dir.path()).expect("a new log");
    let path = segments(dir.path())[0].clone();
    for index in 0..999 {
        let flushed = openraft::storage::IOFlushed::noop();
        log.append([entry(1, index, 10)], flushed)
            .await
            .expect("queued");
    }
    append(&mut log, [entry(1, 999, 10)]).await;
    log.close();
    let bytes = fs::read(&path).expect("it is there");
    let mut offset = segment::MAGIC.len();
    let mut frames = 0;
    while let frame::Found::Frame(payload) = frame::read(&bytes, 1, offset) {
        offset = payload.end;
        frames += 1;
    }
    assert!(frames < 500, "{frames} frames for 1000 appends");
}
