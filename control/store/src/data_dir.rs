use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Config, MemberId, OpenError};

/// A member's directory, locked against other processes for as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Whose data it is; written once.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Identity {
    cluster_id: String,
    member: MemberId,
}

impl DataDir {
    /// Opens the directory of a member, or makes one.
    pub(crate) fn open(config: &Config) -> Result<Self, OpenError> {
        let path = config.data_dir.clone();
        fs::create_dir_all(&path).map_err(failed(&path))?;
        let lock = lock(&path.join("lock"))?;
        let identity = Identity {
            cluster_id: config.cluster_id.clone(),
            member: config.member,
        };
        identity.settle(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where the log is.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the snapshots are.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }
}

impl Identity {
    /// Writes it into a new directory; of an old one, demands that it is the same.
    fn settle(self, dir: &Path) -> Result<(), OpenError> {
        let path = dir.join("identity.json");
        match fs::read(&path) {
            Ok(bytes) => {
                let read = serde_json::from_slice(&bytes).map_err(io::Error::from);
                let found: Self = read.map_err(failed(&path))?;
                if found == self {
                    return Ok(());
                }
                let Self { cluster_id, member } = found;
                Err(OpenError::Foreign {
                    path,
                    member,
                    cluster_id,
                })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let bytes =
                    serde_json::to_vec(&self).expect("a string and a number have a JSON form");
                replace(dir, &path, &bytes).map_err(failed(&path))
            }
            Err(source) => Err(OpenError::Io { path, source }),
        }
    }
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(failed(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(e)) => Err(failed(path)(e)),
    }
}

/// Leaves the old file or the new one, whenever the machine stops.
fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(dir)?.sync_all()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io { path, source }
}
