//! Processes that are started in a host and found again by later commands.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::Deadline;
use crate::sys::{self, Entry};

/// Names one process for good: ids are used again, but not with the same start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
}

impl ProcessId {
    /// The identity of the running process `pid`; none when it has ended.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start_time) = parse_stat(&stat)?;
        (state != 'Z' && state != 'X').then_some(Self { pid, start_time })
    }

    /// The identity of a child that may have ended already but was not waited for.
    fn of_child(pid: i32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("look at process {pid}"))?;
        let (_, start_time) = parse_stat(&stat).context("read a process's start time")?;
        Ok(Self { pid, start_time })
    }

    /// Whether it still runs. A process that ended and was not waited for does not.
    pub fn is_running(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Sends a signal, unless the process has ended.
    ///
    /// # Errors
    /// This process may not signal that one.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("send {signal} to {}", self.pid)),
        }
    }

    /// Waits for the end of the process, and collects it when it is a child of this one.
    ///
    /// # Errors
    /// It still runs at the deadline.
    pub fn wait_for_end(&self, deadline: Deadline) -> Result<()> {
        deadline.until(&format!("end of process {}", self.pid), || {
            !self.is_running()
        })?;
        // Not our child, or collected already: either way there is nothing to collect.
        let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        Ok(())
    }
}

/// The state and start time in `/proc/PID/stat`. The name before them may contain anything, so
/// fields are counted from its closing parenthesis: proc_pid_stat(5), fields 3 and 22.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some((state, start_time))
}

/// The ids of all processes.
pub(crate) fn all_pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// A process to be started in a network namespace and a cgroup, detached from the terminal.
#[derive(Debug)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    netns: Option<File>,
    cgroup: Option<PathBuf>,
    listener: Option<TcpListener>,
}

impl Launch {
    /// A launch of `program`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            netns: None,
            cgroup: None,
            listener: None,
        }
    }

    /// Adds arguments.
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to the environment.
    pub fn environment(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it in a network namespace.
    pub fn netns(mut self, netns: File) -> Self {
        self.netns = Some(netns);
        self
    }

    /// Starts it in the cgroup at `folder`, which is made if needed.
    pub fn cgroup(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cgroup = Some(folder.into());
        self
    }

    /// Hands it a listening socket by socket activation: `sd_listen_fds(3)`.
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Starts it, with everything it prints appended to `log`.
    ///
    /// # Errors
    /// A file cannot be opened or the program cannot be run.
    pub fn start(self, log: &Path) -> Result<ProcessId> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let errors = output.try_clone().context("duplicate the log's handle")?;
        let program = self.program.clone();
        let mut command = self.into_command(true)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        ProcessId::of_child(i32::try_from(child.id()).expect("a process id fits"))
    }

    /// The command for running it in the foreground.
    ///
    /// # Errors
    /// The cgroup cannot be made.
    pub fn command(self) -> Result<Command> {
        self.into_command(false)
    }

    fn into_command(self, new_session: bool) -> Result<Command> {
        let mut command = if self.listener.is_some() {
            // LISTEN_PID must hold the id of the process that runs the program, which only that
            // process can know: the shell sets it and becomes the program.
            let mut shell = Command::new("/bin/sh");
            shell
                .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\""])
                .arg(&self.program);
            shell
        } else {
            Command::new(&self.program)
        };
        command.args(&self.arguments).envs(self.environment);
        let cgroups = self
            .cgroup
            .map(|folder| crate::cgroup::join_file(&folder))
            .transpose()?;
        sys::enter(
            &mut command,
            Entry {
                netns: self.netns,
                cgroups: cgroups.into_iter().collect(),
                new_session,
                listener: self.listener.map(Into::into),
            },
        );
        Ok(command)
    }
}

/// The last `count` lines of a log, for an error message.
pub(crate) fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 0 0";
        assert_eq!(parse_stat(stat), Some(('S', 4242)));
    }

    #[test]
    fn a_killed_process_is_no_longer_running_even_before_it_is_collected() {
        let folder = tempfile::tempdir().expect("make a folder");
        let process = Launch::new("/bin/sleep")
            .arguments(["600"])
            .start(&folder.path().join("log"))
            .expect("start");
        assert!(process.is_running());
        process.signal(Signal::SIGKILL).expect("kill");
        process
            .wait_for_end(Deadline::seconds(10))
            .expect("it ends");
        assert!(!process.is_running());
    }

    #[test]
    fn a_listener_is_handed_over_as_descriptor_three_with_the_programs_own_id() {
        let folder = tempfile::tempdir().expect("make a folder");
        let log = folder.path().join("log");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let process = Launch::new("/bin/sh")
            .arguments([
                "-c",
                "test -S /proc/self/fd/3 && test $LISTEN_PID = $$ && echo fds=$LISTEN_FDS",
            ])
            .listener(listener)
            .start(&log)
            .expect("start");
        process
            .wait_for_end(Deadline::seconds(10))
            .expect("it ends");
        assert_eq!(last_lines(&log, 5), "fds=1");
    }
}
