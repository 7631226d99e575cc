//! The mounts of this machine, and removing those below a folder.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

/// The mount points at or below `folder`, in the order they were mounted.
///
/// # Errors
/// `/proc/self/mountinfo` cannot be read.
pub fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    Ok(mount_points(&table)
        .filter(|point| point.starts_with(folder))
        .collect())
}

/// Unmounts everything at or below `folder`, the newest first.
///
/// # Errors
/// A mount point refuses; the ones after it are still mounted.
pub fn unmount_below(folder: &Path) -> Result<()> {
    for point in below(folder)?.iter().rev() {
        // Detached, because a process that is just ending may still hold a file open in it.
        umount2(point, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmount {}", point.display()))?;
    }
    Ok(())
}

/// Mounts the BPF file system at `/sys/fs/bpf` unless it is there, as systemd does at boot.
///
/// # Errors
/// The mount is refused.
pub fn ensure_bpffs() -> Result<()> {
    let point = Path::new("/sys/fs/bpf");
    if below(point)?.iter().any(|mounted| mounted == point) {
        return Ok(());
    }
    nix::mount::mount(
        Some("bpf"),
        point,
        Some("bpf"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .context("mount the BPF file system at /sys/fs/bpf")
}

/// The fifth field of each line is the mount point, with space, tab, newline and backslash as
/// three octal digits: proc_pid_mountinfo(5).
fn mount_points(table: &str) -> impl Iterator<Item = PathBuf> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
}

fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = field
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_the_fifth_field_without_escapes() {
        let table = "22 1 8:1 / / rw - ext4 /dev/sda rw\n\
                     36 22 98:0 /mnt1 /mnt/with\\040space rw,noatime master:1 - ext3 /dev/root rw\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(points, [Path::new("/"), Path::new("/mnt/with space")]);
    }

    #[test]
    fn mounts_below_a_folder_are_unmounted_newest_first() {
        if crate::skip_without_root() {
            return;
        }
        let folder = tempfile::tempdir().expect("make a folder");
        let outer = folder.path().join("outer");
        for point in [outer.clone(), outer.join("inner")] {
            fs::create_dir_all(&point).expect("make a mount point");
            nix::mount::mount(
                Some("none"),
                &point,
                Some("tmpfs"),
                nix::mount::MsFlags::empty(),
                None::<&str>,
            )
            .expect("mount");
        }
        assert_eq!(below(folder.path()).expect("list").len(), 2);
        unmount_below(folder.path()).expect("unmount");
        assert!(below(folder.path()).expect("list").is_empty());
    }
}
