//! Control groups on every hierarchy this machine mounts: v2, v1, or both.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The cgroup hierarchies of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    /// Where v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside v1.
    pub unified: PathBuf,
    /// Where the v1 hierarchies are mounted.
    pub legacy: Vec<PathBuf>,
}

impl Hierarchies {
    /// Reads what is mounted.
    ///
    /// # Errors
    /// The mount table cannot be read, or v2 is not mounted.
    pub fn mounted() -> Result<Self> {
        let table = fs::read_to_string("/proc/self/mounts").context("read the mount table")?;
        Self::parse(&table)
    }

    fn parse(table: &str) -> Result<Self> {
        let mut unified = None;
        let mut legacy = Vec::new();
        for line in table.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(point), Some(kind)) = (fields.next(), fields.next()) else {
                continue;
            };
            if kind == "cgroup2" && unified.is_none() {
                unified = Some(PathBuf::from(point));
            } else if kind == "cgroup" {
                legacy.push(PathBuf::from(point));
            }
        }
        let Some(unified) = unified else {
            bail!("no cgroup v2 hierarchy is mounted: mount one at /sys/fs/cgroup/unified");
        };
        Ok(Self { unified, legacy })
    }

    /// The folders of the group `name` (such as `fairlead/default`) that exist, on every
    /// hierarchy.
    pub fn existing(&self, name: &str) -> Vec<PathBuf> {
        std::iter::once(&self.unified)
            .chain(&self.legacy)
            .map(|root| root.join(name))
            .filter(|group| group.is_dir())
            .collect()
    }
}

/// Makes the group at `folder` and opens its `cgroup.procs`, through which a process joins it.
///
/// # Errors
/// The group cannot be made.
pub fn join_file(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("make cgroup {}", folder.display()))?;
    let procs = folder.join("cgroup.procs");
    OpenOptions::new()
        .write(true)
        .open(&procs)
        .with_context(|| format!("open {}", procs.display()))
}

/// The processes in the group at `folder` and in all groups below it.
pub fn processes_below(folder: &Path) -> Vec<i32> {
    let mut found: Vec<i32> = fs::read_to_string(folder.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    for child in child_groups(folder) {
        found.extend(processes_below(&child));
    }
    found
}

/// Removes the group at `folder` and all groups below it. They must be empty of processes.
///
/// # Errors
/// A group still has a process.
pub fn remove_below(folder: &Path) -> Result<()> {
    for child in child_groups(folder) {
        remove_below(&child)?;
    }
    match fs::remove_dir(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove cgroup {}", folder.display())),
    }
}

fn child_groups(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        // The group went away while we looked, which is what the caller wants of it.
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_from_the_mount_table() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let unified = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        for (table, v2, v1_count) in [
            (hybrid, "/sys/fs/cgroup/unified", 2),
            (unified, "/sys/fs/cgroup", 0),
        ] {
            let found = Hierarchies::parse(table).expect("v2 is mounted");
            assert_eq!(found.unified, Path::new(v2));
            assert_eq!(found.legacy.len(), v1_count);
        }
    }

    #[test]
    fn a_machine_without_v2_is_told_what_to_mount() {
        let error = Hierarchies::parse("proc /proc proc rw 0 0\n").expect_err("no v2");
        assert!(error.to_string().contains("mount one"), "{error}");
    }
}
