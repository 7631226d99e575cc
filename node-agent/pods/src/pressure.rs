use std::{fs, path::Path};

/// Kubelet's default threshold `memory.available`.
const MEMORY_BYTES_MIN: u64 = 100 << 20;
/// Kubelet's default thresholds `nodefs.available` and `nodefs.inodesFree`.
const DISK_PERCENT_MIN: u64 = 10;
const INODES_PERCENT_MIN: u64 = 5;
/// Of all process ids; below it a fork may fail any moment.
const PROCESSES_PERCENT_MIN: u64 = 5;

/// What a node is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Less than 100 MiB can be had without swapping.
    pub memory: bool,
    /// Less than a tenth of the file system of pods' data is free, or few inodes.
    pub disk: bool,
    /// Few process ids are left.
    pub processes: bool,
}

impl Pressure {
    /// Looks at the machine, and at the file system that holds `data_dir`. What cannot be read is
    /// taken to be plenty.
    pub fn probe(data_dir: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let disk = nix::sys::statvfs::statvfs(data_dir).is_ok_and(|system| {
            is_short(system.blocks_available(), system.blocks(), DISK_PERCENT_MIN)
                || is_short(system.files_available(), system.files(), INODES_PERCENT_MIN)
        });
        Self {
            memory: available_bytes(&read("/proc/meminfo"))
                .is_some_and(|bytes| bytes < MEMORY_BYTES_MIN),
            disk,
            processes: processes_short(&read("/proc/loadavg"), &read("/proc/sys/kernel/pid_max")),
        }
    }
}

/// File systems without a limit say that they have 0 in all.
fn is_short(free: u64, total: u64, percent_min: u64) -> bool {
    total > 0 && free.saturating_mul(100) < total.saturating_mul(percent_min)
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// `loadavg` is `0.20 0.18 0.12 1/80 11206`: running and all tasks in its fourth field.
fn processes_short(loadavg: &str, pid_max: &str) -> bool {
    let tasks = loadavg
        .split_whitespace()
        .nth(3)
        .and_then(|tasks| tasks.split_once('/')?.1.parse::<u64>().ok());
    let (Some(tasks), Ok(total)) = (tasks, pid_max.trim().parse::<u64>()) else {
        return false;
    };
    is_short(total.saturating_sub(tasks), total, PROCESSES_PERCENT_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortage_is_read_from_what_the_kernel_says() {
        let meminfo = "MemTotal:       1000000 kB\nMemAvailable:     90000 kB\n";
        assert_eq!(available_bytes(meminfo), Some(90_000 * 1024));
        assert_eq!(available_bytes("nonsense"), None);
        for (loadavg, pid_max, expected) in [
            ("0.20 0.18 0.12 1/80 11206", "32768\n", false),
            ("0.20 0.18 0.12 1/32000 11206", "32768\n", true),
            ("", "", false),
        ] {
            assert_eq!(processes_short(loadavg, pid_max), expected, "{loadavg}");
        }
        assert!(is_short(9, 100, 10));
        assert!(!is_short(10, 100, 10));
        assert!(!is_short(0, 0, 10));
    }
}
