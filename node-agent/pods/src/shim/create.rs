//! The step that creates and starts one container, then ends: the container becomes the shim's
//! child, because the shim is a subreaper.

use std::fs;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;

use super::protocol::{ContainerRecord, RECORD_FILE, SANDBOX_FILE, Sandbox};

/// Holds the container's process id once it runs.
pub(super) const PID_FILE: &str = "pid";
/// Holds the reason if it could not be created. Not stderr: that is the container's own.
pub(super) const ERROR_FILE: &str = "error";
/// libcontainer's state, below the container's directory.
pub(super) const STATE_DIR: &str = "runtime";

/// Creates and starts the container described in `container_dir`.
pub(super) fn run(container_dir: &Path) -> Result<(), String> {
    let result = create(container_dir);
    if let Err(message) = &result {
        // The exit code says that it failed; without the file only the words are lost.
        let _ = fs::write(container_dir.join(ERROR_FILE), message);
        // The message reached its reader by file; the container's log is not the place for it.
        std::process::exit(1);
    }
    result
}

fn create(container_dir: &Path) -> Result<(), String> {
    let (sandbox, record) = load(container_dir)?;
    join_unified(&sandbox, &record)?;
    let state_dir = container_dir.join(STATE_DIR);
    fs::create_dir_all(&state_dir)
        .map_err(|error| format!("cannot make {}: {error}", state_dir.display()))?;
    let mut container = ContainerBuilder::new(record.id.clone(), SyscallType::default())
        .with_root_path(&state_dir)
        .and_then(|builder| builder.as_init(container_dir).with_systemd(false).build())
        .map_err(|error| fairlead_api::error_chain(&error))?;
    let pid = container.pid().ok_or("the container has no process")?;
    fs::write(container_dir.join(PID_FILE), pid.to_string())
        .map_err(|error| format!("cannot write the container's process id: {error}"))?;
    container
        .start()
        .map_err(|error| fairlead_api::error_chain(&error))
}

/// Reads what the agent and the shim wrote about a container and its pod.
pub(super) fn load(container_dir: &Path) -> Result<(Sandbox, ContainerRecord), String> {
    let pod_dir = container_dir
        .parent()
        .and_then(Path::parent)
        .ok_or_else(|| format!("{} is not in a pod's directory", container_dir.display()))?;
    Ok((
        read(pod_dir.join(SANDBOX_FILE))?,
        read(container_dir.join(RECORD_FILE))?,
    ))
}

fn read<T: serde::de::DeserializeOwned>(path: PathBuf) -> Result<T, String> {
    let bytes =
        fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| format!("cannot understand {}: {error}", path.display()))
}

/// Puts this process, and so all it starts, into the container's v2 group before there is a
/// container: on hybrid machines the runtime would leave it outside, unseen by cgroup-BPF.
pub(super) fn join_unified(sandbox: &Sandbox, record: &ContainerRecord) -> Result<(), String> {
    let Some(group) = sandbox.cgroups.unified_to_join(&record.id) else {
        return Ok(());
    };
    fs::create_dir_all(&group)
        .and_then(|()| fs::write(group.join("cgroup.procs"), "0"))
        .map_err(|error| format!("cannot join the cgroup {}: {error}", group.display()))
}
