//! The step that runs one command in a running container and ends as it ended.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::Path;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::create::{STATE_DIR, join_unified, load};
use crate::sys;

/// The exit code that says the time was over (as timeout(1) does).
pub(super) const TIMED_OUT: i32 = 124;
/// The exit code that says the command could not be run (as a shell does).
const CANNOT_RUN: i32 = 126;

/// Runs `argv` in the container of `container_dir`, for at most `timeout_ms`. Its output goes to
/// this process' own.
pub(super) fn run(container_dir: &Path, timeout_ms: &OsStr, argv: &[OsString]) -> i32 {
    match exec(container_dir, timeout_ms, argv) {
        Ok(code) => code,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "{message}");
            CANNOT_RUN
        }
    }
}

fn exec(container_dir: &Path, timeout_ms: &OsStr, argv: &[OsString]) -> Result<i32, String> {
    let timeout_ms: u32 = timeout_ms
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or("the timeout is not a number of milliseconds")?;
    let argv = argv
        .iter()
        .map(|argument| argument.to_str().map(str::to_owned))
        .collect::<Option<Vec<_>>>()
        .ok_or("the command is not UTF-8")?;
    let (sandbox, record) = load(container_dir)?;
    join_unified(&sandbox, &record)?;
    let pid = ContainerBuilder::new(record.id, SyscallType::default())
        .with_root_path(container_dir.join(STATE_DIR))
        .and_then(|builder| {
            builder
                .as_tenant()
                .with_container_args(argv)
                .with_env(HashMap::new())
                .with_detach(true)
                .build()
        })
        .map_err(|error| fairlead_api::error_chain(&error))?;
    // libcontainer has a nix of its own, and so a Pid of its own.
    let pid = Pid::from_raw(pid.as_raw());
    wait(pid, timeout_ms).map_err(|error| format!("cannot wait for the command: {error}"))
}

fn wait(pid: Pid, timeout_ms: u32) -> std::io::Result<i32> {
    let pidfd = sys::pidfd_open(pid.as_raw())?;
    let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(timeout_ms).unwrap_or(PollTimeout::MAX);
    let timed_out = poll(&mut ended, timeout)? == 0;
    if timed_out {
        kill(pid, Signal::SIGKILL)?;
    }
    Ok(match waitpid(pid, None)? {
        _ if timed_out => TIMED_OUT,
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => return Err(std::io::Error::other(format!("unexpected end: {other:?}"))),
    })
}
