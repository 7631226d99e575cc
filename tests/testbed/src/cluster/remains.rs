//! Everything a cluster has on this machine, found by looking rather than by remembering, so that
//! one that died half-way is removed like any other.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::layout::Layout;
use super::state::State;
use crate::cgroup;
use crate::process::all_pids;
use crate::{Deadline, NetNs, ProcessId, mounts};

/// What is left of a cluster.
#[derive(Debug)]
pub struct Remains {
    layout: Layout,
    /// Processes that were recorded, or are in a namespace or cgroup of the cluster.
    pub processes: Vec<ProcessId>,
    /// Named network namespaces.
    pub namespaces: Vec<String>,
    /// Mount points below the cluster's folder.
    pub mounts: Vec<PathBuf>,
    /// Its folder in the BPF file system, when there is one.
    pub pins: Option<PathBuf>,
    /// Its cgroups, one on each hierarchy that has it.
    pub cgroups: Vec<PathBuf>,
    /// Its files.
    pub files: Vec<PathBuf>,
}

impl Remains {
    /// Looks everywhere.
    pub fn of(layout: &Layout) -> Self {
        let namespaces: Vec<_> = NetNs::names()
            .unwrap_or_default()
            .into_iter()
            .filter(|name| layout.host_of_netns(name).is_some())
            .collect();
        let mounts = mounts::below(layout.folder()).unwrap_or_default();
        let cgroups = layout.hierarchies().existing(&layout.cgroup_name());
        let processes = processes(layout, &namespaces, &mounts, &cgroups);
        let files = [layout.folder().to_owned(), layout.kubeconfig()];
        Self {
            layout: layout.clone(),
            processes,
            namespaces,
            mounts,
            pins: Some(layout.pins()).filter(|folder| folder.is_dir()),
            cgroups,
            files: files.into_iter().filter(|path| path.exists()).collect(),
        }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
            && self.namespaces.is_empty()
            && self.mounts.is_empty()
            && self.pins.is_none()
            && self.cgroups.is_empty()
            && self.files.is_empty()
    }

    /// Removes everything: processes first, since they hold the rest.
    ///
    /// # Errors
    /// Something could not be removed; the error names it, and everything else is gone.
    pub fn remove(self) -> Result<()> {
        let mut failures = Vec::new();
        let mut note = |outcome: Result<()>| {
            if let Err(error) = outcome {
                failures.push(format!("{error:#}"));
            }
        };
        note(self.kill_processes());
        note(mounts::unmount_below(self.layout.folder()));
        if let Some(pins) = &self.pins {
            note(remove_tree(pins));
            remove_if_empty(pins.parent());
        }
        for name in &self.namespaces {
            note(NetNs::delete(name));
        }
        for group in &self.cgroups {
            note(Deadline::seconds(10).wait_for("empty cgroup", || {
                // A killed process leaves its group a moment after it has ended.
                cgroup::remove_below(group).map(Some)
            }));
            remove_if_empty(group.parent());
        }
        for path in &self.files {
            note(remove_tree(path));
        }
        if failures.is_empty() {
            return Ok(());
        }
        bail!(
            "cluster {} is not removed whole:\n  {}",
            self.layout.name(),
            failures.join("\n  ")
        );
    }

    /// Kills until none is left: a process that was just being started is found by another look.
    fn kill_processes(&self) -> Result<()> {
        Deadline::seconds(20).wait_for("end of the cluster's processes", || {
            let running = Self::of(&self.layout).processes;
            for process in &running {
                process.signal(Signal::SIGKILL)?;
                // When this process started it, it stays a zombie until it is waited for.
                process.wait_for_end(Deadline::seconds(10))?;
            }
            Ok(running.is_empty().then_some(()))
        })
    }
}

impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.processes.len(), "processes"),
            (self.namespaces.len(), "network namespaces"),
            (self.mounts.len(), "mounts"),
            (usize::from(self.pins.is_some()), "folder of BPF pins"),
            (self.cgroups.len(), "cgroups"),
            (self.files.len(), "files and folders"),
        ];
        let parts: Vec<_> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if parts.is_empty() {
            return f.write_str("nothing");
        }
        f.write_str(&parts.join(", "))
    }
}

fn processes(
    layout: &Layout,
    namespaces: &[String],
    mounts: &[PathBuf],
    cgroups: &[PathBuf],
) -> Vec<ProcessId> {
    // The namespaces of pods are bind mounts below the cluster's folder.
    let identities: BTreeSet<_> = namespaces
        .iter()
        .map(|name| Path::new("/run/netns").join(name))
        .chain(mounts.iter().cloned())
        .filter_map(|path| identity(&path))
        .collect();
    let in_namespaces = all_pids().into_iter().filter(|pid| {
        identity(Path::new(&format!("/proc/{pid}/ns/net")))
            .is_some_and(|netns| identities.contains(&netns))
    });
    let in_cgroups = cgroups
        .iter()
        .flat_map(|group| cgroup::processes_below(group));
    let pids: BTreeSet<i32> = in_namespaces.chain(in_cgroups).collect();

    let mut found: Vec<_> = pids.into_iter().filter_map(ProcessId::of).collect();
    if let Ok(state) = State::load(&layout.state_file()) {
        for process in state.processes.into_values() {
            if process.is_running() && !found.contains(&process) {
                found.push(process);
            }
        }
    }
    found.retain(|process| process.pid != std::process::id().cast_signed());
    found
}

/// What tells one namespace from another: namespaces(7).
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn remove_tree(path: &Path) -> Result<()> {
    let outcome = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a folder that clusters share, when this was the last one.
fn remove_if_empty(folder: Option<&Path>) {
    if let Some(folder) = folder {
        // Not empty: another cluster is there.
        let _ = fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Hierarchies;
    use crate::cluster::{Host, Spec};
    use crate::{Launch, skip_without_root};

    #[test]
    fn a_cluster_that_died_before_it_wrote_its_state_is_found_and_removed() {
        if skip_without_root() {
            return;
        }
        let folder = tempfile::tempdir().expect("make a folder");
        let name = format!("rem-{}", std::process::id());
        let layout = Layout::new(
            &name,
            folder.path(),
            Hierarchies::mounted().expect("cgroups are mounted"),
        );
        let node = Host::Node(1);
        let pod_mount = layout.run(node).join("netns");
        fs::create_dir_all(&pod_mount).expect("make a mount point");
        nix::mount::mount(
            Some("none"),
            &pod_mount,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )
        .expect("mount");
        let mut netns = NetNs::create(&layout.netns(node)).expect("make a namespace");
        netns.keep();
        let log = folder.path().join("log");
        let sleep = || Launch::new("/bin/sleep").arguments(["600"]);
        let in_namespace = sleep()
            .netns(netns.file().expect("a handle"))
            .start(&log)
            .expect("start in the namespace");
        let in_cgroup = sleep()
            .cgroup(layout.process_cgroup(node))
            .start(&log)
            .expect("start in the cgroup");

        let found = Remains::of(&layout);
        assert!(found.processes.contains(&in_namespace), "{found:?}");
        assert!(found.processes.contains(&in_cgroup), "{found:?}");
        assert_eq!(found.namespaces, [layout.netns(node)]);
        assert_eq!(found.mounts, [pod_mount]);
        assert_eq!(found.cgroups.len(), 1);

        found.remove().expect("remove");
        assert!(!in_namespace.is_running() && !in_cgroup.is_running());
        let left = Remains::of(&layout);
        assert!(left.is_empty(), "left: {left}");
    }

    #[test]
    fn a_cluster_leaves_another_whose_name_begins_the_same() {
        if skip_without_root() {
            return;
        }
        let folder = tempfile::tempdir().expect("make a folder");
        let hierarchies = Hierarchies::mounted().expect("cgroups are mounted");
        let name = format!("two-{}", std::process::id());
        let longer = Spec::named(&format!("{name}-b")).name;
        let other = Layout::new(&longer, folder.path(), hierarchies.clone());
        let _kept = NetNs::create(&other.netns(Host::Client)).expect("make a namespace");
        let remains = Remains::of(&Layout::new(&name, folder.path(), hierarchies));
        assert!(remains.is_empty(), "{remains:?}");
    }
}
