use std::{
    fs::{self, File},
    io::{self, Write},
    mem,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    time::Duration,
};

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;
use tracing::{error, info};

use super::{
    Record, frame,
    segment::{MAGIC, Segment},
    tail::Tail,
};
use crate::{
    codec,
    raft::{LogId, TypeConfig, Vote},
};

/// Bytes of records after which a frame is closed even if more are queued.
const FRAME_BYTES: usize = 4 << 20;

/// Records that nobody waits for are written when the log has been idle this long, so that a crash
/// of an idle member loses none.
const IDLE: Duration = Duration::from_millis(20);

/// Records to write, in this order behind all before them.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) records: Vec<Record>,
    pub(super) done: Done,
}

/// Who waits for a job to be on the disk.
pub(super) enum Done {
    /// Nobody: it is written with whatever comes next.
    Nobody,
    /// openraft, for entries.
    Flushed(IOFlushed<TypeConfig>),
    /// Whoever holds the other end.
    Reply(oneshot::Sender<io::Result<()>>),
}

/// Owns the files, on a thread of its own.
#[derive(Debug)]
pub(super) struct Writer {
    dir: PathBuf,
    /// Full segments, oldest first.
    full: Vec<Segment>,
    current: Segment,
    file: File,
    end: u64,
    segment_bytes: u64,
    carry: Carry,
}

/// What a new segment repeats, so that the ones before it can go.
#[derive(Debug, Default)]
struct Carry {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

impl Writer {
    pub(super) fn resume(
        dir: &Path,
        full: Vec<Segment>,
        current: Segment,
        file: File,
        end: u64,
        segment_bytes: u64,
    ) -> Self {
        Self {
            dir: dir.to_owned(),
            full,
            current,
            file,
            end,
            segment_bytes,
            carry: Carry::default(),
        }
    }

    /// Goes on from what was read.
    pub(super) fn carrying(mut self, tail: &Tail) -> Self {
        self.carry = Carry {
            vote: tail.vote,
            committed: tail.committed,
            purged: tail.purged,
        };
        self
    }

    /// Writes until every sender is gone, then what is left.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut failure = None;
        let mut batch = Batch::default();
        loop {
            let more = batch.collect(jobs);
            let Batch { records, waiting } = mem::take(&mut batch);
            if failure.is_none()
                && let Err(e) = self.write(&records)
            {
                error!(segment = %self.current.path.display(), error = %e, "the log cannot be written; this member stops");
                failure = Some((e.kind(), e.to_string()));
            }
            for done in waiting {
                done.tell(match &failure {
                    None => Ok(()),
                    Some((kind, reason)) => Err(io::Error::new(*kind, reason.clone())),
                });
            }
            if !more {
                return;
            }
        }
    }

    /// Makes records durable.
    fn write(&mut self, records: &[Record]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        if self.end >= self.segment_bytes {
            self.start_segment()?;
        }
        self.write_frame(records)?;
        let purges = records.iter().any(|r| matches!(r, Record::Purge(_)));
        if purges {
            self.remove_purged()?;
        }
        Ok(())
    }

    fn write_frame(&mut self, records: &[Record]) -> io::Result<()> {
        let mut payload = Vec::new();
        for record in records {
            payload = codec::encode_onto(record, payload);
            self.carry.take(record);
            if let Record::Entry(entry) = record {
                self.current.last_index = self.current.last_index.max(Some(entry.log_id.index));
            }
        }
        let mut bytes = Vec::with_capacity(frame::HEADER_BYTES + payload.len());
        frame::write(&mut bytes, &payload, self.current.number, self.end);
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn start_segment(&mut self) -> io::Result<()> {
        let next = Segment::at(&self.dir, self.current.number + 1);
        self.file = next.create()?;
        self.end = MAGIC.len() as u64;
        self.full.push(mem::replace(&mut self.current, next));
        let carried = self.carry.records();
        if !carried.is_empty() {
            self.write_frame(&carried)?;
        }
        Ok(())
    }

    /// Removes full segments all of whose entries are purged, oldest first and without a gap: a
    /// later one may hold the record that truncated an earlier one's entries.
    fn remove_purged(&mut self) -> io::Result<()> {
        let purged = self.carry.purged.map(|purged| purged.index);
        let gone = self
            .full
            .iter()
            .take_while(|segment| segment.last_index <= purged)
            .count();
        if gone == 0 {
            return Ok(());
        }
        for segment in self.full.drain(..gone) {
            info!(segment = %segment.path.display(), "removing a log segment that is in a snapshot");
            fs::remove_file(&segment.path)?;
        }
        File::open(&self.dir)?.sync_all()
    }
}

impl Carry {
    fn take(&mut self, record: &Record) {
        match record {
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Committed(committed) => self.committed = *committed,
            Record::Purge(purged) => self.purged = self.purged.max(Some(*purged)),
            Record::Entry(_) | Record::TruncateAfter(_) => {}
        }
    }

    fn records(&self) -> Vec<Record> {
        let vote = self.vote.map(Record::Vote);
        let committed = self.committed.map(|id| Record::Committed(Some(id)));
        let purged = self.purged.map(Record::Purge);
        [vote, committed, purged].into_iter().flatten().collect()
    }
}

/// What becomes one frame.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    waiting: Vec<Done>,
}

impl Batch {
    /// Waits for something worth writing and takes what is queued with it. Returns whether more
    /// can come.
    fn collect(&mut self, jobs: &Receiver<Job>) -> bool {
        let mut bytes = 0;
        while self.waiting.is_empty() {
            let job = if self.records.is_empty() {
                jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                jobs.recv_timeout(IDLE)
            };
            match job {
                Ok(job) => bytes += self.add(job),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        while bytes < FRAME_BYTES {
            match jobs.try_recv() {
                Ok(job) => bytes += self.add(job),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    fn add(&mut self, job: Job) -> usize {
        let bytes = job.records.iter().map(super::tail::record_size).sum();
        self.records.extend(job.records);
        if !matches!(job.done, Done::Nobody) {
            self.waiting.push(job.done);
        }
        bytes
    }
}

impl Done {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Nobody => {}
            Self::Flushed(flushed) => flushed.io_completed(result),
            // Whoever asked has gone; the record is written all the same.
            Self::Reply(reply) => drop(reply.send(result)),
        }
    }
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nobody => "Nobody",
            Self::Flushed(_) => "Flushed",
            Self::Reply(_) => "Reply",
        })
    }
}
