//! What agent and shim say to each other, and what both keep on disk: JSON, one value a line.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::log_file;
use crate::cgroup::PodCgroups;
use crate::files::{remove_file_if_any, remove_tree_if_any};

/// The shim's control socket, in the pod's directory.
pub(crate) const SOCKET: &str = "shim.sock";
/// What the shim holds together: a [`Sandbox`].
pub(crate) const SANDBOX_FILE: &str = "sandbox.json";
/// The shim's process id and start time, so that a reused number is not taken for it.
pub(crate) const IDENTITY_FILE: &str = "shim.pid";
/// Directory of container directories.
pub(crate) const CONTAINERS_DIR: &str = "containers";
/// A [`ContainerRecord`], in the container's directory.
pub(crate) const RECORD_FILE: &str = "record.json";
/// An [`Exit`], in the container's directory, from the moment the container has ended.
pub(crate) const EXIT_FILE: &str = "exit.json";
/// What the shim prints once its socket accepts.
pub(crate) const READY: &str = "ready";

/// What the containers of a pod share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sandbox {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) hostname: String,
    /// The pod's network namespace; `None` for a pod in the node's own.
    pub(crate) netns: Option<PathBuf>,
    /// Share the machine's IPC namespace instead of a pod's own.
    pub(crate) host_ipc: bool,
    /// Mounted before the first container: memory volumes and /dev/shm.
    pub(crate) tmpfs: Vec<Tmpfs>,
    pub(crate) cgroups: PodCgroups,
    /// Unpacked image layers, by name.
    pub(crate) layers_dir: PathBuf,
    /// Arguments that make this binary a shim, before the step's own: `["pod-shim"]`.
    pub(crate) step_args: Vec<String>,
}

/// A tmpfs to mount in the pod's mount namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tmpfs {
    pub(crate) path: PathBuf,
    pub(crate) size_bytes: Option<u64>,
}

/// One run of one container: what it was started as.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// Unique on the node; 64 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) name: String,
    /// Counts from 0; the restart count.
    pub(crate) attempt: u32,
    /// Seconds of crash-loop back-off that were due before this attempt.
    pub(crate) backoff_s: u32,
    /// The image as the pod names it.
    pub(crate) image: String,
    /// `sha256:` digest of the image's config.
    pub(crate) image_id: String,
    /// Layer directories, lowest first.
    pub(crate) layers: Vec<String>,
    /// The writable layer: holds `upper` and `work`.
    pub(crate) writable_dir: PathBuf,
    pub(crate) log_path: PathBuf,
    /// Where on the node the container's termination message is.
    pub(crate) termination_message: PathBuf,
    /// What asks the container to stop: SIGTERM, unless the image says otherwise.
    pub(crate) stop_signal: i32,
    pub(crate) created_at: Timestamp,
}

impl ContainerRecord {
    /// The container's directory below the pod's.
    pub(crate) fn dir(&self, pod_dir: &Path) -> PathBuf {
        pod_dir
            .join(CONTAINERS_DIR)
            .join(format!("{}-{}", self.name, self.attempt))
    }

    /// Removes what the run wrote outside that directory: its layer, logs and last words.
    pub(crate) fn remove_files(&self) -> io::Result<()> {
        remove_tree_if_any(&self.writable_dir)?;
        remove_file_if_any(&self.termination_message)?;
        log_file::remove(&self.log_path)
    }
}

/// A container and where it is in its life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerState {
    pub(crate) record: ContainerRecord,
    pub(crate) phase: Phase,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Phase {
    Creating,
    Running { pid: i32, started_at: Timestamp },
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// `None` if it never ran.
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Timestamp,
    /// As a shell counts: 128 + n for signal n.
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) oom_killed: bool,
    /// Why it could not start, or what else is known.
    pub(crate) message: Option<String>,
    /// A reason that differs from what the code says: `StartError`, `ContainerStatusUnknown`.
    pub(crate) reason: Option<String>,
}

/// What the agent asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Starts the container whose directory holds a record and an OCI `config.json`.
    Start { record: ContainerRecord },
    /// Asks the container to end, and kills it when the grace is over.
    Stop { id: String, grace_ms: u64 },
    /// Forgets an ended container.
    Remove { id: String },
    /// Runs a command in a running container.
    Exec {
        id: String,
        argv: Vec<String>,
        timeout_ms: u64,
    },
    /// Opens the log file of a container anew, after something moved it away.
    ReopenLog { id: String },
    /// Every state from now on: the present one at once, then one for each change.
    Watch,
    /// Kills what runs, undoes the mounts and ends the shim.
    Shutdown,
}

/// What the shim answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    Done,
    Failed(String),
    Executed(Executed),
    /// Answers [`Request::Watch`], again and again.
    State(Vec<ContainerState>),
}

/// How an exec ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Executed {
    pub(crate) code: i32,
    pub(crate) timed_out: bool,
    /// Both streams, cut to [`EXEC_OUTPUT_BYTES_MAX`].
    pub(crate) output: String,
}

/// More output of an exec is read and forgotten.
pub(crate) const EXEC_OUTPUT_BYTES_MAX: usize = 10 * 1024;
