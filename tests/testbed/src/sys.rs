//! The one unsafe corner: what a child does between fork and exec.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, setns};

/// The first file descriptor a program started by socket activation finds, as
/// `sd_listen_fds(3)` has it.
const LISTEN_FDS_START: i32 = 3;

/// What a child becomes before it runs its program. Every file is opened in the parent, because
/// the child must not allocate.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// The network namespace to enter.
    pub(crate) netns: Option<File>,
    /// The `cgroup.procs` files to join.
    pub(crate) cgroups: Vec<File>,
    /// Whether the child leads a session of its own, out of reach of the terminal's signals.
    pub(crate) new_session: bool,
    /// A listening socket that becomes descriptor 3.
    pub(crate) listener: Option<OwnedFd>,
}

/// Makes `command` do what `entry` says before it runs its program.
pub(crate) fn enter(command: &mut Command, mut entry: Entry) {
    let before_exec = move || -> io::Result<()> {
        if entry.new_session {
            nix::unistd::setsid()?;
        }
        for procs in &mut entry.cgroups {
            procs.write_all(b"0")?;
        }
        if let Some(netns) = &entry.netns {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
        }
        if let Some(listener) = &entry.listener {
            pass_as_first(listener)?;
        }
        Ok(())
    };
    // SAFETY: the closure runs in the forked child and makes only system calls (setsid, write,
    // setns, dup2, fcntl), all of which are async-signal-safe; it takes no lock and does not
    // allocate, since every file was opened by the parent.
    unsafe {
        command.pre_exec(before_exec);
    }
}

/// Puts a copy of `listener` at descriptor 3, open across exec.
fn pass_as_first(listener: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let raw = listener.as_raw_fd();
    // SAFETY: dup2 and fcntl on a descriptor this process owns; whatever was at descriptor 3 is
    // close-on-exec and not used by the child again.
    let outcome = unsafe {
        if raw == LISTEN_FDS_START {
            libc::fcntl(raw, libc::F_SETFD, 0)
        } else {
            libc::dup2(raw, LISTEN_FDS_START)
        }
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
