//! Where a pod's control groups are, on pure v2, pure v1 and hybrid machines alike.
//!
//! On v1 and hybrid machines the limits live in the v1 hierarchies, below a common prefix. Every
//! container is also put into a v2 group of its own: cgroup-BPF programs see only that, and
//! `cgroup.kill` ends everything in it at once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long a group may stay busy after its last process was killed.
const REMOVE_WAIT_MAX: Duration = Duration::from_secs(2);

/// The groups of one pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PodCgroups {
    /// Mount points of the v1 hierarchies; empty where there are none.
    legacy_mounts: Vec<PathBuf>,
    /// The pod's group, relative to the root of each v1 hierarchy.
    legacy: PathBuf,
    /// The pod's v2 group.
    unified: PathBuf,
    /// Where the v2 hierarchy that holds `unified` is mounted.
    unified_mount: PathBuf,
}

impl PodCgroups {
    /// The groups of the pod `uid` of a node: below `prefix` in v1, below `unified` in v2.
    pub(crate) fn of_pod(mounts: &Mounts, prefix: &str, unified: &Path, uid: &str) -> Self {
        let pod = format!("pod{uid}");
        Self {
            legacy_mounts: mounts.legacy.clone(),
            legacy: Path::new(prefix.trim_matches('/')).join(&pod),
            unified: unified.join(&pod),
            unified_mount: mounts.unified.clone(),
        }
    }

    /// What `linux.cgroupsPath` of the OCI spec says for a container.
    pub(crate) fn oci_path(&self, container: &str) -> PathBuf {
        let pod = if self.legacy_mounts.is_empty() {
            self.unified
                .strip_prefix(&self.unified_mount)
                .unwrap_or(&self.legacy)
        } else {
            &self.legacy
        };
        Path::new("/").join(pod).join(container)
    }

    /// The v2 group a container must be put into by us, because the runtime only knows v1 here.
    /// `None` on a pure v2 machine, where the runtime does it.
    pub(crate) fn unified_to_join(&self, container: &str) -> Option<PathBuf> {
        (!self.legacy_mounts.is_empty()).then(|| self.unified.join(container))
    }

    /// Kills every process of a container.
    pub(crate) fn kill_container(&self, container: &str) -> io::Result<()> {
        kill(&self.unified.join(container))
    }

    /// Kills every process of the pod.
    pub(crate) fn kill_pod(&self) -> io::Result<()> {
        kill(&self.unified)
    }

    /// Removes a container's groups. Its processes must have ended.
    pub(crate) fn remove_container(&self, container: &str) -> io::Result<()> {
        self.groups()
            .try_for_each(|pod| remove_tree(&pod.join(container)))
    }

    /// Removes the pod's groups and all below them.
    pub(crate) fn remove_pod(&self) -> io::Result<()> {
        self.groups().try_for_each(|pod| remove_tree(&pod))
    }

    /// Whether the kernel's OOM killer ended a process of the container.
    pub(crate) fn oom_killed(&self, container: &str) -> bool {
        let counters = self
            .legacy_mounts
            .iter()
            .map(|mount| {
                mount
                    .join(&self.legacy)
                    .join(container)
                    .join("memory.oom_control")
            })
            .chain([self.unified.join(container).join("memory.events")]);
        counters
            .filter_map(|path| fs::read_to_string(path).ok())
            .any(|text| {
                text.lines()
                    .filter_map(|line| line.strip_prefix("oom_kill "))
                    .any(|count| count.trim() != "0")
            })
    }

    fn groups(&self) -> impl Iterator<Item = PathBuf> {
        self.legacy_mounts
            .iter()
            .map(|mount| mount.join(&self.legacy))
            .chain([self.unified.clone()])
    }
}

/// Where the machine has its hierarchies mounted.
#[derive(Clone, Debug)]
pub(crate) struct Mounts {
    legacy: Vec<PathBuf>,
    unified: PathBuf,
}

impl Mounts {
    /// Reads them from this process' mount table.
    pub(crate) fn discover() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mounts")?))
    }

    fn parse(mounts: &str) -> Self {
        let mut legacy = Vec::new();
        let mut unified = PathBuf::from("/sys/fs/cgroup");
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(target), Some(kind)) = (fields.next(), fields.next()) else {
                continue;
            };
            match kind {
                "cgroup" => legacy.push(PathBuf::from(target)),
                "cgroup2" => unified = PathBuf::from(target),
                _ => continue,
            }
        }
        Self { legacy, unified }
    }

    /// Removes the groups a node made for its pods, which must be gone.
    pub(crate) fn remove_node(&self, prefix: &str, unified: &Path) -> io::Result<()> {
        let prefix = Path::new(prefix.trim_matches('/'));
        for mount in &self.legacy {
            let node = mount.join(prefix);
            remove_tree(&node)?;
            // The prefix' own parents ("fairlead/CLUSTER") go with their last node.
            let parents = prefix
                .ancestors()
                .skip(1)
                .filter(|path| !path.as_os_str().is_empty());
            for parent in parents {
                if fs::remove_dir(mount.join(parent)).is_err() {
                    break;
                }
            }
        }
        for entry in read_dir_if_any(unified)? {
            if entry.file_name().to_string_lossy().starts_with("pod") && entry.path().is_dir() {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn kill(group: &Path) -> io::Result<()> {
    match fs::write(group.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a group and those below it; waits for killed processes to leave it.
fn remove_tree(group: &Path) -> io::Result<()> {
    for entry in read_dir_if_any(group)? {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    let deadline = Instant::now() + REMOVE_WAIT_MAX;
    loop {
        match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                if Instant::now() >= deadline {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error),
        }
    }
}

fn read_dir_if_any(path: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(path) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
";

    #[test]
    fn hybrid_machine_joins_both_hierarchies() {
        let mounts = Mounts::parse(HYBRID);
        let unified = Path::new("/sys/fs/cgroup/unified/fairlead/a/node-1");
        let groups = PodCgroups::of_pod(&mounts, "fairlead/a/node-1", unified, "42");
        assert_eq!(
            groups.oci_path("c"),
            Path::new("/fairlead/a/node-1/pod42/c")
        );
        assert_eq!(groups.unified_to_join("c"), Some(unified.join("pod42/c")));
    }

    #[test]
    fn pure_v2_machine_leaves_the_joining_to_the_runtime() {
        let mounts = Mounts::parse("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        let unified = Path::new("/sys/fs/cgroup/fairlead/node-1");
        let groups = PodCgroups::of_pod(&mounts, "ignored", unified, "42");
        assert_eq!(groups.oci_path("c"), Path::new("/fairlead/node-1/pod42/c"));
        assert_eq!(groups.unified_to_join("c"), None);
    }
}
