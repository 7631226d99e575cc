use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::sys;

/// Numbers this process's programs, for the names of their directories.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// An XDP program that passes everything, pinned where `ip link` can find it: on a bpffs of its
/// own, which is gone with this value. Devices keep the program they were given.
pub(crate) struct PassingProgram {
    directory: PathBuf,
}

impl PassingProgram {
    pub(crate) fn load() -> Result<Self> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fairlead-pass-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        mount(
            Some("bpf"),
            &directory,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mount a bpffs at {}", directory.display()))?;
        let program = Self { directory };
        sys::pin_passing_program(&program.path()).context("load an XDP program that passes")?;
        Ok(program)
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new(&self.directory).join("pass")
    }
}

impl Drop for PassingProgram {
    fn drop(&mut self) {
        // What cannot be removed here is an empty directory in the temporary one.
        let _ = umount2(&self.directory, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.directory);
    }
}
