//! One container in the shim's care, from the step that creates it to its written exit.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::pipe2;

use super::create::{ERROR_FILE, PID_FILE, STATE_DIR};
use super::log_file::{LogFile, Rotation, Stream};
use super::protocol::{ContainerRecord, ContainerState, EXIT_FILE, Exit, Phase, Sandbox};
use super::rootfs;
use crate::files::write_atomically;
use crate::sys;

/// How long output is still read after the container's end: something outside may hold the pipe.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// Exit code of a container that could not start, as container runtimes report it.
const START_ERROR_CODE: i32 = 128;

/// What the shim waits for next.
enum Life {
    /// The create step runs.
    Creating { step: Child, ended: OwnedFd },
    /// The container runs.
    Running { ended: OwnedFd },
    /// It has ended; its last output is being read.
    Draining { exit: Exit, until: Instant },
    /// The exit is on disk.
    Ended,
}

/// A pipe of the container's output.
pub(super) struct Output {
    pub(super) stream: Stream,
    pub(super) pipe: fs::File,
}

/// A container and everything the shim holds for it.
pub(super) struct Container {
    pub(super) state: ContainerState,
    dir: PathBuf,
    life: Life,
    pub(super) outputs: Vec<Output>,
    log: Option<LogFile>,
    kill_at: Option<Instant>,
}

impl Container {
    /// A container of an earlier shim, known only by the files it left.
    pub(super) fn ended(record: ContainerRecord, exit: Exit, dir: PathBuf) -> Self {
        Self {
            state: ContainerState {
                record,
                phase: Phase::Exited(exit),
            },
            dir,
            life: Life::Ended,
            outputs: Vec::new(),
            log: None,
            kill_at: None,
        }
    }

    /// Begins to create a container. A failure is the container's end, not the shim's: it is
    /// reported as an exit.
    pub(super) fn create(sandbox: &Sandbox, pod_dir: &Path, record: ContainerRecord) -> Self {
        let dir = record.dir(pod_dir);
        let mut container = Self {
            state: ContainerState {
                record,
                phase: Phase::Creating,
            },
            dir,
            life: Life::Ended,
            outputs: Vec::new(),
            log: None,
            kill_at: None,
        };
        if let Err(message) = container.begin(sandbox) {
            container.fail(sandbox, message);
        }
        container
    }

    fn begin(&mut self, sandbox: &Sandbox) -> Result<(), String> {
        let record = &self.state.record;
        rootfs::mount_overlay(record, &self.dir, &sandbox.layers_dir)?;
        let log = LogFile::open(&record.log_path, Rotation::default())
            .map_err(|error| format!("cannot open {}: {error}", record.log_path.display()))?;
        let fail = |error: &dyn std::fmt::Display| format!("cannot start the create step: {error}");
        let (stdout, stdout_writer) = output_pipe().map_err(|error| fail(&error))?;
        let (stderr, stderr_writer) = output_pipe().map_err(|error| fail(&error))?;
        let step = Command::new("/proc/self/exe")
            .args(&sandbox.step_args)
            .arg("create")
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(stdout_writer)
            .stderr(stderr_writer)
            .spawn()
            .map_err(|error| fail(&error))?;
        let ended = sys::pidfd_open(step.id() as i32).map_err(|error| fail(&error))?;
        self.outputs = vec![
            Output {
                stream: Stream::Stdout,
                pipe: stdout,
            },
            Output {
                stream: Stream::Stderr,
                pipe: stderr,
            },
        ];
        self.log = Some(log);
        self.life = Life::Creating { step, ended };
        Ok(())
    }

    /// The descriptor that becomes readable when what the shim waits for has ended.
    pub(super) fn waited(&self) -> Option<BorrowedFd<'_>> {
        match &self.life {
            Life::Creating { ended, .. } | Life::Running { ended } => Some(ended.as_fd()),
            Life::Draining { .. } | Life::Ended => None,
        }
    }

    /// When [`Self::tick`] has something to do, should nothing else happen.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.life {
            Life::Draining { until, .. } => Some(*until),
            Life::Creating { .. } | Life::Running { .. } => self.kill_at,
            Life::Ended => None,
        }
    }

    /// Takes note that the awaited process has ended. Says whether the state changed.
    pub(super) fn process_ended(&mut self, sandbox: &Sandbox) -> bool {
        match std::mem::replace(&mut self.life, Life::Ended) {
            Life::Creating { mut step, .. } => {
                let created = step.wait().is_ok_and(|status| status.success());
                if !created {
                    let message = fs::read_to_string(self.dir.join(ERROR_FILE))
                        .unwrap_or_else(|_| "the create step died".to_owned());
                    self.reap_halfway_created();
                    self.fail(sandbox, message);
                } else if let Err(message) = self.adopt() {
                    self.fail(sandbox, message);
                }
                true
            }
            Life::Running { ended } => {
                let (code, signal) = reap(ended.as_fd());
                let id = &self.state.record.id;
                let exit = Exit {
                    started_at: match self.state.phase {
                        Phase::Running { started_at, .. } => Some(started_at),
                        Phase::Creating | Phase::Exited(_) => None,
                    },
                    finished_at: Timestamp::now(),
                    code,
                    signal,
                    oom_killed: sandbox.cgroups.oom_killed(id),
                    message: None,
                    reason: None,
                };
                self.life = Life::Draining {
                    exit,
                    until: Instant::now() + DRAIN_MAX,
                };
                self.settle(sandbox)
            }
            other => {
                self.life = other;
                false
            }
        }
    }

    /// Reads what a pipe holds. Says whether the state changed.
    pub(super) fn read_output(&mut self, index: usize, sandbox: &Sandbox) -> bool {
        let mut chunk = [0; 64 * 1024];
        let output = &mut self.outputs[index];
        let stream = output.stream;
        let ended = match output.pipe.read(&mut chunk) {
            Ok(0) => true,
            Ok(count) => {
                if let Some(log) = &mut self.log {
                    // A full disk must not stop the container: its output is lost instead.
                    let _ = log.append(stream, &chunk[..count]);
                }
                false
            }
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ),
        };
        if !ended {
            return false;
        }
        self.outputs.remove(index);
        if let Some(log) = &mut self.log {
            let _ = log.finish(stream);
        }
        self.settle(sandbox)
    }

    /// Does what has come due. Says whether the state changed.
    pub(super) fn tick(&mut self, now: Instant, sandbox: &Sandbox) -> bool {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.kill(sandbox);
        }
        self.settle(sandbox)
    }

    /// Asks the container to end, and sets the time when it is made to. A later request can only
    /// bring that time forward.
    pub(super) fn stop(&mut self, grace: Duration) {
        let at = Instant::now() + grace;
        if self.kill_at.is_none()
            && let Life::Running { ended } = &self.life
        {
            // An error means that it has just ended, which is what was asked.
            let _ = sys::pidfd_send_signal(ended.as_fd(), self.state.record.stop_signal);
        }
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Ends the container now.
    pub(super) fn kill(&mut self, sandbox: &Sandbox) {
        match &self.life {
            // Ending pid 1 of a pid namespace ends all of it.
            Life::Running { ended } => {
                let _ = sys::pidfd_send_signal(ended.as_fd(), libc::SIGKILL);
            }
            Life::Creating { ended, .. } => {
                let _ = sys::pidfd_send_signal(ended.as_fd(), libc::SIGKILL);
                let _ = sandbox.cgroups.kill_container(&self.state.record.id);
            }
            Life::Draining { .. } | Life::Ended => {}
        }
    }

    /// Whether nothing is left to wait for.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.life, Life::Ended)
    }

    /// Opens the log anew.
    pub(super) fn reopen_log(&mut self) -> io::Result<()> {
        self.log.as_mut().map_or(Ok(()), LogFile::reopen)
    }

    /// The container's directory below the pod's.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The create step is done: what it started is the shim's child now.
    fn adopt(&mut self) -> Result<(), String> {
        let pid = self
            .created_pid()
            .ok_or("the create step left no process id")?;
        let ended = sys::pidfd_open(pid)
            .map_err(|error| format!("cannot watch the container's process {pid}: {error}"))?;
        self.state.phase = Phase::Running {
            pid,
            started_at: Timestamp::now(),
        };
        self.life = Life::Running { ended };
        Ok(())
    }

    fn created_pid(&self) -> Option<i32> {
        fs::read_to_string(self.dir.join(PID_FILE))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// A create step that failed after its container had a process leaves that to the shim.
    fn reap_halfway_created(&self) {
        if let Some(ended) = self.created_pid().and_then(|pid| sys::pidfd_open(pid).ok()) {
            let _ = sys::pidfd_send_signal(ended.as_fd(), libc::SIGKILL);
            reap(ended.as_fd());
        }
    }

    fn fail(&mut self, sandbox: &Sandbox, message: String) {
        self.outputs.clear();
        self.conclude(
            sandbox,
            Exit {
                started_at: None,
                finished_at: Timestamp::now(),
                code: START_ERROR_CODE,
                signal: None,
                oom_killed: false,
                message: Some(message),
                reason: Some("StartError".to_owned()),
            },
        );
    }

    /// Concludes an ended container whose output has been read, or waited for long enough.
    fn settle(&mut self, sandbox: &Sandbox) -> bool {
        let Life::Draining { exit, until } = &self.life else {
            return false;
        };
        if !self.outputs.is_empty() && Instant::now() < *until {
            return false;
        }
        let exit = exit.clone();
        self.outputs.clear();
        self.conclude(sandbox, exit);
        true
    }

    /// Writes the exit, then frees what only a running container needs.
    fn conclude(&mut self, sandbox: &Sandbox, exit: Exit) {
        self.kill_at = None;
        self.log = None;
        self.life = Life::Ended;
        // If the disk refuses, the agent still learns it over the socket; only an agent that
        // comes after this shim's death would find the container lost.
        let _ = write_atomically(
            &self.dir.join(EXIT_FILE),
            &serde_json::to_vec(&exit).expect("an exit is plain data"),
        );
        self.state.phase = Phase::Exited(exit);
        let id = &self.state.record.id;
        let _ = sandbox.cgroups.kill_container(id);
        rootfs::unmount(&self.dir);
        let _ = fs::remove_dir_all(self.dir.join(STATE_DIR));
        let _ = sandbox.cgroups.remove_container(id);
    }
}

fn output_pipe() -> nix::Result<(fs::File, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((fs::File::from(reader), writer))
}

/// Collects an ended child: its exit code as a shell counts, and its signal.
fn reap(pidfd: BorrowedFd<'_>) -> (i32, Option<i32>) {
    match waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED) {
        Ok(WaitStatus::Exited(_, code)) => (code, None),
        Ok(WaitStatus::Signaled(_, signal, _)) => (128 + signal as i32, Some(signal as i32)),
        // Not ours to wait for: nobody can say how it ended.
        Ok(_) | Err(_) => (255, None),
    }
}
