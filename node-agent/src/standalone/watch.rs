//! Notices that a file may have changed: written in place, or replaced by a rename, as editors and
//! configuration management do.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{io::AsyncReadExt, net::unix::pipe, time::timeout};

/// How long a directory has to be quiet before its file is read: who writes in several steps has
/// ended by then.
const QUIET: Duration = Duration::from_millis(100);

/// Changes of the directories that the file and what it links to are in. The file itself could not
/// be watched: a rename puts another in its place.
pub(crate) struct Watch {
    events: pipe::Receiver,
}

impl Watch {
    /// Watches for changes of the file at `path` from now on.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE;
        let target = fs::canonicalize(path)?;
        let directories = BTreeSet::from([directory(path), directory(&target)]);
        for directory in &directories {
            inotify.add_watch(directory, changes)?;
        }
        // The runtime's receiving end of a pipe reads whatever bytes a descriptor is readable for;
        // that there are some is all that is asked here.
        let events =
            pipe::Receiver::from_owned_fd_unchecked(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(Self { events })
    }

    /// Waits until something has changed there, and nothing any more for a moment.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        self.take().await?;
        while let Ok(more) = timeout(QUIET, self.take()).await {
            more?;
        }
        Ok(())
    }

    async fn take(&mut self) -> io::Result<()> {
        // An event has at most the size of its header and the longest name; several may come.
        let mut events = [0; 4096];
        match self.events.read(&mut events).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn writes_and_renames_are_noticed_and_many_at_once_only_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services.yaml");
        fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(&path).unwrap();
        for number in 0..20 {
            fs::write(&path, number.to_string()).unwrap();
        }
        timeout(LIMIT, watch.changed()).await.unwrap().unwrap();
        assert!(timeout(2 * QUIET, watch.changed()).await.is_err(), "once");
        let beside = directory.path().join("services.yaml.new");
        fs::write(&beside, "two").unwrap();
        fs::rename(&beside, &path).unwrap();
        timeout(LIMIT, watch.changed()).await.unwrap().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
    }

    #[tokio::test]
    async fn file_behind_a_link_is_watched_too() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join("there");
        fs::create_dir(&there).unwrap();
        fs::write(there.join("services.yaml"), "one").unwrap();
        let path = directory.path().join("services.yaml");
        std::os::unix::fs::symlink(there.join("services.yaml"), &path).unwrap();
        let mut watch = Watch::new(&path).unwrap();
        fs::write(there.join("services.yaml"), "two").unwrap();
        timeout(LIMIT, watch.changed()).await.unwrap().unwrap();
    }
}
