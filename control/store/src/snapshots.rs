//! Snapshot files under `<data-dir>/snapshots/`, named by the last log entry they contain.
//!
//! A file is written beside its place, made durable, renamed, and then its directory is made
//! durable: a crash leaves the old file or the new one, never half of either. The two newest are
//! kept.

mod file;
mod format;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use tracing::{info, warn};

pub(crate) use file::SnapshotFile;
pub(crate) use format::{Contents, read, write};

use crate::{OpenError, raft::LogId};

/// Snapshots that are kept; the older is for the case that the newer cannot be read.
const KEPT: usize = 2;

/// The directory of snapshots.
#[derive(Debug)]
pub(crate) struct Snapshots {
    dir: PathBuf,
    unfinished: AtomicU64,
}

impl Snapshots {
    /// Opens a directory, which is made if absent; clears out what a crash left unfinished.
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io {
            path: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(failed)?;
        for entry in dir.read_dir().map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            unfinished: AtomicU64::new(0),
        })
    }

    /// Reads the newest snapshot that can be read and that the log, purged up to `purged`,
    /// continues from. `None` if there is none and the log is whole.
    pub(crate) fn latest(
        &self,
        purged: Option<LogId>,
    ) -> Result<Option<(SnapshotFile, Contents)>, OpenError> {
        let mut damage = None;
        for path in self.list()?.into_iter().rev() {
            let read = SnapshotFile::open(&path).and_then(|file| Ok((read(&file)?, file)));
            match read {
                Ok((contents, file)) if contents.meta.last_log_id >= purged => {
                    return Ok(Some((file, contents)));
                }
                Ok(_) => {}
                Err(source) => {
                    warn!(snapshot = %path.display(), error = %source, "a snapshot cannot be read");
                    damage.get_or_insert((path, source));
                }
            }
        }
        match (damage, purged) {
            (Some((path, source)), Some(_)) => Err(OpenError::DamagedSnapshot { path, source }),
            (None, Some(purged)) => Err(OpenError::DamagedSnapshot {
                path: self.dir.clone(),
                source: io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("the log begins behind {purged} and no snapshot reaches that far"),
                ),
            }),
            // The log has everything from the first entry on.
            (_, None) => Ok(None),
        }
    }

    /// A path to write a snapshot to before it is finished.
    pub(crate) fn unfinished(&self) -> PathBuf {
        let n = self.unfinished.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{n}.tmp"))
    }

    /// Puts a finished and durable file in its place and forgets the oldest ones.
    pub(crate) fn keep(&self, path: &Path, last: Option<LogId>) -> io::Result<SnapshotFile> {
        let index = last.map_or(0, |last| last.index);
        let place = self.dir.join(format!("{index:020}.snap"));
        fs::rename(path, &place)?;
        File::open(&self.dir)?.sync_all()?;
        info!(snapshot = %place.display(), "snapshot kept");
        let kept = SnapshotFile::open(&place)?;
        let mut all = self.list().map_err(io::Error::other)?;
        all.truncate(all.len().saturating_sub(KEPT));
        for old in all {
            fs::remove_file(old)?;
        }
        Ok(kept)
    }

    /// The snapshots there are, oldest first.
    fn list(&self) -> Result<Vec<PathBuf>, OpenError> {
        let failed = |source| OpenError::Io {
            path: self.dir.clone(),
            source,
        };
        let mut paths = Vec::new();
        for entry in self.dir.read_dir().map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "snap")
            {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }
}
