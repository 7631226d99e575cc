//! Network namespaces pinned at a path, as `ip netns` and every container runtime keep them: an
//! `nsfs` file bind-mounted over an empty one.
//!
//! A thread that enters a namespace never leaves it: all such work happens on a thread of its own
//! that ends with it, so that no worker of a runtime can be left behind in a pod.

use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, statfs};
use tokio::sync::oneshot;

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// Why a namespace could not be made, entered or removed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} network namespace {}", path.display())]
pub struct Error {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Error {
    fn of<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self {
            operation,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// Whether a namespace is pinned at `path`.
pub fn is_pinned(path: &Path) -> Result<bool, Error> {
    match statfs(path) {
        Ok(stat) => Ok(stat.filesystem_type() == NSFS_MAGIC),
        Err(Errno::ENOENT) => Ok(false),
        Err(e) => Err(Error::of("inspect", path)(e)),
    }
}

/// Opens the namespace pinned at `path`.
pub fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(Error::of("open", path))
}

/// Makes a new namespace and pins it at `path`, unless one is pinned there.
pub async fn ensure(path: &Path) -> Result<(), Error> {
    if is_pinned(path)? {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::of("make a directory for", path))?;
    }
    File::create(path).map_err(Error::of("make a file for", path))?;
    let target = path.to_owned();
    on_thread(path, move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(Error::of("create", &target))?;
        // `thread-self`: the main thread's namespace, which `self` names, is still the old one.
        let namespace = Path::new("/proc/thread-self/ns/net");
        mount(
            Some(namespace),
            &target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(Error::of("pin", &target))
    })
    .await?
}

/// Removes the pin at `path`, and with it the namespace once no process is left in it.
pub fn remove(path: &Path) -> Result<(), Error> {
    // Mounts can be stacked by two agents that raced; each is taken off.
    while is_pinned(path)? {
        umount2(path, MntFlags::MNT_DETACH).map_err(Error::of("unpin", path))?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::of("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Runs `work` to its end inside the namespace pinned at `path`, on a thread and a runtime of its
/// own.
pub async fn enter<T, W, F>(path: &Path, work: W) -> Result<T, Error>
where
    T: Send + 'static,
    W: FnOnce() -> F + Send + 'static,
    F: Future<Output = T>,
{
    let target = path.to_owned();
    on_thread(path, move || {
        let namespace = open(&target)?;
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Error::of("enter", &target))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::of("start a runtime in", &target))?;
        Ok(runtime.block_on(work()))
    })
    .await?
}

async fn on_thread<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            // The receiver is gone when the caller was cancelled: nobody wants the result.
            let _ = sender.send(work());
        })
        .map_err(Error::of("start a thread for", path))?;
    receiver
        .await
        .map_err(|_| Error::of("work in", path)(io::Error::other("the thread panicked")))
}
