use std::{
    fmt::Debug,
    io,
    ops::RangeBounds,
    path::Path,
    sync::{
        Arc, Mutex, RwLock, RwLockReadGuard,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
};

use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::oneshot;

use super::{
    Record, recovery,
    tail::Tail,
    writer::{Done, Job},
};
use crate::{
    OpenError,
    raft::{LogEntry, LogId, TypeConfig, Vote},
};

/// Entries handed out for one message to a follower, in bytes; a single larger entry goes alone.
const MESSAGE_BYTES: usize = 2 << 20;

/// The log as openraft uses it, to write and to read. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    tail: Arc<RwLock<Tail>>,
    writer: Arc<WriterThread>,
}

/// Ends with the last clone of the log.
#[derive(Debug)]
struct WriterThread {
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// Opens the log in a directory, which is made if absent.
    pub(crate) fn open(dir: &Path, segment_bytes: u64) -> Result<Self, OpenError> {
        let (tail, writer) = recovery::open(dir, segment_bytes)?;
        let (jobs, queue) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("store-log".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|source| OpenError::Io {
                path: dir.to_owned(),
                source,
            })?;
        let writer = WriterThread {
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
        };
        Ok(Self {
            tail: Arc::new(RwLock::new(tail)),
            writer: Arc::new(writer),
        })
    }

    /// The last entry that is only in a snapshot.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.tail().purged
    }

    /// Whether this member never voted and never had an entry.
    pub(crate) fn is_pristine(&self) -> bool {
        let tail = self.tail();
        tail.vote.is_none() && tail.last().is_none()
    }

    /// Writes what is left and stops; the log can then be opened again.
    pub(crate) fn close(&self) {
        self.writer.stop();
    }

    fn tail(&self) -> RwLockReadGuard<'_, Tail> {
        self.tail.read().expect("nobody panics with the lock held")
    }

    /// Shows records to readers at once, and queues them for the disk.
    fn put(&self, records: Vec<Record>, done: Done) -> io::Result<()> {
        let mut tail = self.tail.write().expect("nobody panics with the lock held");
        records.iter().for_each(|record| tail.apply(record));
        // Under the lock, so that the disk sees the order that readers see.
        self.writer.send(Job { records, done })
    }
}

impl WriterThread {
    fn send(&self, job: Job) -> io::Result<()> {
        let jobs = self.jobs.lock().expect("nobody panics with the lock held");
        let sent = jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent {
            Ok(())
        } else {
            Err(io::Error::other("the log is closed"))
        }
    }

    fn stop(&self) {
        drop(
            self.jobs
                .lock()
                .expect("nobody panics with the lock held")
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .expect("nobody panics with the lock held")
            .take();
        if let Some(thread) = thread {
            thread
                .join()
                .expect("the writer reports its errors, it does not panic");
        }
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.stop();
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<LogEntry>> {
        Ok(self.tail().range(range))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        Ok(self.tail().range_up_to(start, end, MESSAGE_BYTES))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.tail().vote)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.tail();
        Ok(LogState {
            last_purged_log_id: tail.purged,
            last_log_id: tail.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (reply, written) = oneshot::channel();
        self.put(vec![Record::Vote(*vote)], Done::Reply(reply))?;
        let closed = |_| io::Error::other("the log is closed");
        written.await.map_err(closed)?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.put(vec![Record::Committed(committed)], Done::Nobody)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.tail().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = entries.into_iter().map(Record::Entry).collect();
        self.put(records, Done::Flushed(callback))
    }

    // Neither of these need wait for the disk: what is written after them is written behind them,
    // and a crash before that leaves a log that openraft truncates or purges again.

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.put(vec![Record::TruncateAfter(last_log_id)], Done::Nobody)
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.put(vec![Record::Purge(log_id)], Done::Nobody)
    }
}
