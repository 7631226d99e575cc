//! `cargo xtask dist`: one folder with all that a real machine needs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use testbed::{Progress, Workspace};

use crate::{build, cargo, setup};

/// The programs of a deployment. The eBPF object is inside the agent.
const PROGRAMS: [&str; 3] = ["fairlead-control", "fairlead-agent", "netctl"];

/// Folders and files of the work tree that are copied as they are, and where to.
const COPIED: [(&str, &str); 4] = [
    ("deploy/systemd", "systemd"),
    ("deploy/examples", "examples"),
    ("docs/deploy.md", "deploy.md"),
    ("LICENSE", "LICENSE"),
];

/// Builds in release mode and fills `target/dist`.
///
/// # Errors
/// Something does not build, or the target folder cannot be written.
pub(crate) fn run(workspace: &Workspace, progress: &Progress) -> Result<()> {
    setup::ensure(workspace, progress)?;
    build::ebpf(workspace, progress)?;
    progress.step("build: programs, in release mode");
    // All of the workspace, as the benchmarks build it: a choice of packages would be other
    // features, and so another build of every dependency.
    cargo::run(workspace, "build --release --workspace --bins")?;

    let dist = workspace.target().join("dist");
    if dist.exists() {
        fs::remove_dir_all(&dist).with_context(|| format!("remove {}", dist.display()))?;
    }
    let release = workspace.clone().with_profile("release");
    for program in PROGRAMS {
        copy(&release.binary(program)?, &dist.join("bin").join(program))?;
    }
    for (from, to) in COPIED {
        copy(&workspace.root().join(from), &dist.join(to))?;
    }
    progress.step(format!(
        "{} is complete: docs/deploy.md says what to do with it",
        dist.display()
    ));
    Ok(())
}

/// Copies a file, or the files of a folder.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let context = || format!("copy {} to {}", from.display(), to.display());
    if from.is_dir() {
        for entry in fs::read_dir(from).with_context(context)? {
            let entry = entry.with_context(context)?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(context)?;
    }
    fs::copy(from, to).with_context(context)?;
    Ok(())
}
