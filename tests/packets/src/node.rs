//! A node that a test process becomes: for programs at their hooks. A process can be one only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fairlead_dataplane::loader::{Loaded, Place};
use fairlead_dataplane_common::maps;
use nix::sched::{CloneFlags, unshare};

use crate::is_root_missing;

/// A node's place in the kernel, removed when dropped. The process is in its cgroup and namespace.
pub struct Node {
    /// What is its own.
    pub place: Place,
}

impl Node {
    /// Enters a namespace and a cgroup of its own; nothing, after printing why, without root.
    pub fn new() -> Option<Self> {
        if is_root_missing() {
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of our own");
        ip("link set lo up");
        ip("link add uplink type veth peer name other");
        ip("link set uplink up");
        ip("link set other up");
        let name = format!("fairlead-test-{}", std::process::id());
        let cgroup = cgroup_root().join(&name);
        fs::create_dir(&cgroup).expect("a cgroup of our own");
        fs::write(cgroup.join("cgroup.procs"), "0").expect("enter the cgroup");
        let place = Place {
            bpffs: Path::new("/sys/fs/bpf").join(&name),
            uplinks: vec!["uplink".to_owned()],
            cgroup,
            version: maps::SCHEMA_VERSION,
        };
        Some(Self { place })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::write(cgroup_root().join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.place.cgroup);
        if let Err(error) = Loaded::remove(&self.place) {
            eprintln!("{error}");
        }
    }
}

/// Where cgroup v2 is mounted.
fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .expect("cgroup v2 is mounted")
}

/// Runs `ip` in the namespace.
pub fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .expect("run ip");
    assert!(status.success(), "ip {arguments}");
}
