//! Mounts of a pod, made in the shim's own mount namespace: they end with it, whatever happens.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::chdir;

use super::protocol::{ContainerRecord, Tmpfs};
use crate::image::overlay_options;

/// Mounts a memory volume.
pub(super) fn mount_tmpfs(tmpfs: &Tmpfs) -> Result<(), String> {
    let fail = |error: &dyn std::fmt::Display| {
        format!("cannot mount a tmpfs on {}: {error}", tmpfs.path.display())
    };
    fs::create_dir_all(&tmpfs.path).map_err(|error| fail(&error))?;
    let mut options = "mode=1777".to_owned();
    if let Some(size) = tmpfs.size_bytes {
        options.push_str(&format!(",size={size}"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        &tmpfs.path,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )
    .map_err(|error| fail(&error))
}

/// Mounts the container's root: the image's layers under a writable one.
///
/// The lower directories are named relative to the layer store, so that even a long image's fit
/// into the one page that mount options may take.
pub(super) fn mount_overlay(
    record: &ContainerRecord,
    container_dir: &Path,
    layers_dir: &Path,
) -> Result<PathBuf, String> {
    let target = container_dir.join("rootfs");
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        format!("cannot {what} for container {}: {error}", record.name)
    };
    let upper = record.writable_dir.join("upper");
    let work = record.writable_dir.join("work");
    for dir in [&target, &upper, &work] {
        fs::create_dir_all(dir).map_err(|error| fail("make the root's directories", &error))?;
    }
    let options = overlay_options(&record.layers, &upper, &work);
    chdir(layers_dir).map_err(|error| fail("enter the layer store", &error))?;
    let mounted = mount(
        Some("overlay"),
        &target,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    );
    chdir("/").map_err(|error| fail("leave the layer store", &error))?;
    mounted.map_err(|error| fail("mount the image's layers", &error))?;
    Ok(target)
}

/// Unmounts a container's root; what still uses it keeps it until it ends.
pub(super) fn unmount(container_dir: &Path) {
    // Not mounted is as good: a create that failed early leaves nothing to undo.
    let _ = umount2(&container_dir.join("rootfs"), MntFlags::MNT_DETACH);
}
