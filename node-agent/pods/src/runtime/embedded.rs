//! The runtime that needs no daemon: a shim of our own for each pod.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;

use super::connection::Connection;
use super::{PodState, Runtime, RuntimeError};
use crate::Config;
use crate::files::{remove_tree_if_any, write_atomically};
use crate::image::{Image, ImageStore, Missing};
use crate::shim::Identity;
use crate::shim::protocol::{
    CONTAINERS_DIR, ContainerRecord, ContainerState, EXIT_FILE, Executed, Exit, IDENTITY_FILE,
    Phase, READY, RECORD_FILE, Request, Response, SANDBOX_FILE, Sandbox,
};

/// How long a shim may take to begin or to end.
const SHIM_WAIT_MAX: Duration = Duration::from_secs(15);
/// How long the shim may take to answer what needs no waiting on its side.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Pods held by shims of this very program.
pub(crate) struct EmbeddedRuntime {
    config: Arc<Config>,
    images: Arc<ImageStore>,
}

impl EmbeddedRuntime {
    pub(crate) fn new(config: Arc<Config>, images: Arc<ImageStore>) -> Self {
        Self { config, images }
    }

    fn dir(&self, uid: &str) -> PathBuf {
        self.config.pod_run_dir(uid)
    }

    async fn ask(
        &self,
        operation: &str,
        uid: &str,
        request: &Request,
        wait_max: Duration,
    ) -> Result<Response, RuntimeError> {
        let fail = |error: &dyn std::fmt::Display| RuntimeError::new(operation, error);
        let asked = async {
            let mut connection = Connection::open(&self.dir(uid)).await?;
            connection.ask(request).await
        };
        match tokio::time::timeout(wait_max, asked).await {
            Err(_) => Err(fail(&"the pod's shim does not answer")),
            Ok(Err(error)) => Err(fail(&error)),
            Ok(Ok(Response::Failed(message))) => Err(fail(&message)),
            Ok(Ok(response)) => Ok(response),
        }
    }

    /// Starts the shim and waits until it says that it is ready.
    async fn spawn_shim(&self, dir: &Path) -> io::Result<()> {
        let (program, args) = self
            .config
            .shim_command
            .split_first()
            .ok_or_else(|| io::Error::other("no shim command is configured"))?;
        let mut child = Command::new(program)
            .args(args)
            .arg("serve")
            .arg(dir)
            // Nothing of the agent's own environment is a container's business.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        let mut stderr = child.stderr.take().expect("stderr was asked to be a pipe");
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        let read = tokio::time::timeout(SHIM_WAIT_MAX, reader.read_line(&mut line)).await;
        if read.is_ok() && line.trim() == READY {
            // As long as the agent lives it is the shim's parent, and collects it.
            tokio::spawn(async move { child.wait().await });
            return Ok(());
        }
        let _ = child.start_kill();
        let mut message = String::new();
        let _ = stderr.read_to_string(&mut message).await;
        let _ = child.wait().await;
        Err(io::Error::other(match message.trim() {
            "" => "the pod's shim did not start".to_owned(),
            message => message.to_owned(),
        }))
    }

    /// [`bury`], off the async threads: the kernel takes its time to let go of a cgroup.
    async fn bury(&self, uid: &str) -> io::Result<Vec<ContainerState>> {
        let dir = self.dir(uid);
        tokio::task::spawn_blocking(move || match bury(&dir) {
            // No sandbox, nothing dead.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        })
        .await?
    }

    fn living_shim(&self, uid: &str) -> Option<i32> {
        let text = fs::read_to_string(self.dir(uid).join(IDENTITY_FILE)).ok()?;
        Identity::living(&text)
    }

    async fn wait_for_shim_to_end(&self, uid: &str) -> bool {
        let ended = async {
            while self.living_shim(uid).is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SHIM_WAIT_MAX, ended).await.is_ok()
    }
}

#[async_trait]
impl Runtime for EmbeddedRuntime {
    async fn image(&self, name: &str) -> Result<Image, Missing> {
        self.images.find(name).await
    }

    fn image_changes(&self) -> watch::Receiver<u64> {
        self.images.changes()
    }

    async fn run_sandbox(&self, sandbox: &Sandbox) -> Result<(), RuntimeError> {
        let dir = self.dir(&sandbox.uid);
        if self.living_shim(&sandbox.uid).is_some() {
            return Ok(());
        }
        let fail = |error: io::Error| RuntimeError::new("cannot start the pod's sandbox", error);
        let bytes = serde_json::to_vec(sandbox).expect("a sandbox is plain data");
        // Before a new shim reads what the old one left.
        self.bury(&sandbox.uid).await.map_err(fail)?;
        fs::create_dir_all(&dir)
            .and_then(|()| write_atomically(&dir.join(SANDBOX_FILE), &bytes))
            .map_err(fail)?;
        self.spawn_shim(&dir).await.map_err(fail)
    }

    async fn watch(&self, uid: &str) -> Result<watch::Receiver<PodState>, RuntimeError> {
        let fail = |error: &dyn std::fmt::Display| {
            RuntimeError::new("cannot learn the pod's state", error)
        };
        let opened = Connection::open(&self.dir(uid)).await;
        // A socket that refuses is that of a shim that has died, or is about to.
        if opened.is_err() && self.wait_for_shim_to_end(uid).await {
            let containers = self.bury(uid).await.map_err(|error| fail(&error))?;
            return Ok(watch::Sender::new(PodState {
                alive: false,
                containers,
            })
            .subscribe());
        }
        let mut connection = opened.map_err(|error| fail(&error))?;
        let first = connection
            .ask(&Request::Watch)
            .await
            .map_err(|error| fail(&error))?;
        let Response::State(containers) = first else {
            return Err(fail(&"the shim answered something else"));
        };
        let sender = watch::Sender::new(PodState {
            alive: true,
            containers,
        });
        let receiver = sender.subscribe();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    next = connection.next() => match next {
                        Ok(Some(Response::State(containers))) => {
                            sender.send_modify(|state| state.containers = containers);
                        }
                        Ok(Some(_)) => {}
                        // Gone: whoever watches asks again, and the dead are buried then.
                        Ok(None) | Err(_) => {
                            sender.send_modify(|state| state.alive = false);
                            return;
                        }
                    }
                }
            }
        });
        Ok(receiver)
    }

    async fn start_container(
        &self,
        uid: &str,
        record: &ContainerRecord,
        spec: &serde_json::Value,
    ) -> Result<(), RuntimeError> {
        let operation = format!("cannot start container {}", record.name);
        let dir = record.dir(&self.dir(uid));
        let write = || -> io::Result<()> {
            fs::create_dir_all(&dir)?;
            write_atomically(&dir.join("config.json"), &serde_json::to_vec(spec)?)?;
            write_atomically(&dir.join(RECORD_FILE), &serde_json::to_vec(record)?)
        };
        write().map_err(|error| RuntimeError::new(&operation, error))?;
        let request = Request::Start {
            record: record.clone(),
        };
        self.ask(&operation, uid, &request, ANSWER_WAIT_MAX)
            .await
            .map(drop)
    }

    async fn stop_container(&self, uid: &str, id: &str, grace_ms: u64) -> Result<(), RuntimeError> {
        let request = Request::Stop {
            id: id.to_owned(),
            grace_ms,
        };
        self.ask("cannot stop the container", uid, &request, ANSWER_WAIT_MAX)
            .await
            .map(drop)
    }

    async fn remove_container(&self, uid: &str, id: &str) -> Result<(), RuntimeError> {
        let request = Request::Remove { id: id.to_owned() };
        self.ask(
            "cannot remove the container",
            uid,
            &request,
            ANSWER_WAIT_MAX,
        )
        .await
        .map(drop)
    }

    async fn exec(
        &self,
        uid: &str,
        id: &str,
        argv: &[String],
        timeout_ms: u64,
    ) -> Result<Executed, RuntimeError> {
        let request = Request::Exec {
            id: id.to_owned(),
            argv: argv.to_vec(),
            timeout_ms,
        };
        let wait_max = Duration::from_millis(timeout_ms) + ANSWER_WAIT_MAX;
        match self
            .ask("cannot run the command", uid, &request, wait_max)
            .await?
        {
            Response::Executed(executed) => Ok(executed),
            _ => Err(RuntimeError::new(
                "cannot run the command",
                "the shim answered otherwise",
            )),
        }
    }

    async fn stop_sandbox(&self, uid: &str) -> Result<(), RuntimeError> {
        let operation = "cannot stop the pod's sandbox";
        let fail = |error: &dyn std::fmt::Display| RuntimeError::new(operation, error);
        if let Some(pid) = self.living_shim(uid) {
            let asked = self
                .ask(operation, uid, &Request::Shutdown, SHIM_WAIT_MAX)
                .await;
            if asked.is_err() || !self.wait_for_shim_to_end(uid).await {
                tracing::warn!(
                    uid,
                    pid,
                    "the pod's shim did not end when asked: killing it"
                );
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                if !self.wait_for_shim_to_end(uid).await {
                    return Err(fail(&"the pod's shim cannot be killed"));
                }
            }
        }
        self.bury(uid).await.map_err(|error| fail(&error))?;
        let sandbox = match read_sandbox(&self.dir(uid)) {
            Ok(sandbox) => sandbox,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(fail(&error)),
        };
        // Removing groups waits for the kernel to let go of what was killed.
        tokio::task::spawn_blocking(move || sandbox.cgroups.remove_pod())
            .await
            .map_err(|error| fail(&error))?
            .map_err(|error| fail(&error))
    }

    async fn remove_sandbox(&self, uid: &str) -> Result<(), RuntimeError> {
        remove_tree_if_any(&self.dir(uid))
            .map_err(|error| RuntimeError::new("cannot remove the pod's sandbox", error))
    }

    async fn sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        let pods = self.config.run_dir.join("pods");
        let read = || -> io::Result<Vec<Sandbox>> {
            let mut sandboxes = Vec::new();
            for entry in fs::read_dir(&pods)? {
                match read_sandbox(&entry?.path()) {
                    Ok(sandbox) => sandboxes.push(sandbox),
                    // A directory without a sandbox is of a pod that never had one.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(sandboxes)
        };
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|error| RuntimeError::new("cannot list sandboxes", error)),
        }
    }
}

/// Ends what a dead shim left running and writes the exits it could not write.
fn bury(dir: &Path) -> io::Result<Vec<ContainerState>> {
    let sandbox = read_sandbox(dir)?;
    sandbox.cgroups.kill_pod()?;
    let mut containers = Vec::new();
    for record in records(dir)? {
        let container_dir = record.dir(dir);
        let exit = match fs::read(container_dir.join(EXIT_FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let exit = lost(&record);
                let bytes = serde_json::to_vec(&exit)?;
                write_atomically(&container_dir.join(EXIT_FILE), &bytes)?;
                exit
            }
            Err(error) => return Err(error),
        };
        sandbox.cgroups.remove_container(&record.id)?;
        containers.push(ContainerState {
            record,
            phase: Phase::Exited(exit),
        });
    }
    Ok(containers)
}

fn read_sandbox(dir: &Path) -> io::Result<Sandbox> {
    Ok(serde_json::from_slice(&fs::read(dir.join(SANDBOX_FILE))?)?)
}

fn records(dir: &Path) -> io::Result<Vec<ContainerRecord>> {
    let mut records: Vec<ContainerRecord> = Vec::new();
    let containers = match fs::read_dir(dir.join(CONTAINERS_DIR)) {
        Ok(containers) => containers,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(records),
        Err(error) => return Err(error),
    };
    for entry in containers {
        match fs::read(entry?.path().join(RECORD_FILE)) {
            Ok(bytes) => records.push(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    records.sort_by_key(|record| (record.created_at, record.attempt));
    Ok(records)
}

/// The exit of a container whose shim died before it: how it would have ended nobody knows.
fn lost(record: &ContainerRecord) -> Exit {
    Exit {
        started_at: Some(record.created_at),
        finished_at: Timestamp::now(),
        code: 137,
        signal: Some(libc::SIGKILL),
        oom_killed: false,
        message: Some("the pod's shim died; the container was killed".to_owned()),
        reason: Some("ContainerStatusUnknown".to_owned()),
    }
}
