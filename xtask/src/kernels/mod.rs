//! `cargo xtask kernels`: whether the programs work in the kernels that Debian ships.
//!
//! Each kernel boots in a virtual machine with one program in memory, `kernel-check` of
//! `tests/packets`: it loads the eBPF object as the agent would, and sends a packet through each
//! program. Nothing of the kernels is installed on this machine.

mod initramfs;
mod machine;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use testbed::{Progress, Workspace};

use crate::{build, cargo, setup};

/// The kernels' series.
pub(crate) const SERIES: [&str; 2] = ["6.1", "6.12"];

/// What the program's last line begins with.
const VERDICT: &str = "kernel-check:";

/// Where setup puts the kernel of a series.
pub(crate) fn image(workspace: &Workspace, series: &str) -> PathBuf {
    let kernels = workspace.target().join("tools/kernels");
    kernels.join(series).join("vmlinuz")
}

/// Builds what is needed, and checks all kernels.
///
/// # Errors
/// Something does not build, or a check failed.
pub(crate) fn run(workspace: &Workspace, progress: &Progress) -> Result<()> {
    setup::ensure(workspace, progress)?;
    setup::ensure_kernels(workspace, progress)?;
    build::ebpf(workspace, progress)?;
    cargo::run(workspace, "build --workspace --bin kernel-check")?;
    check(workspace, progress)
}

/// Checks all kernels with the program that is built.
///
/// # Errors
/// A kernel does not boot, or does not run the programs.
pub(crate) fn check(workspace: &Workspace, progress: &Progress) -> Result<()> {
    let program = workspace.binary("kernel-check")?;
    let folder = tempfile::tempdir().context("make a folder for the machines")?;
    let memory = folder.path().join("initramfs");
    fs::write(&memory, initramfs::of(&program)?).context("write the initramfs")?;
    for series in SERIES {
        progress.step(format!("check: kernel {series}"));
        let printed = machine::run(&image(workspace, series), &memory, VERDICT)
            .with_context(|| format!("check kernel {series}"))?;
        let last = printed.last().map_or("", String::as_str);
        let verdict = last.trim_start_matches(VERDICT).trim();
        if !verdict.starts_with("passed") {
            bail!("kernel {series}:\n{}", printed.join("\n"));
        }
        progress.step(format!("check: {verdict}"));
    }
    Ok(())
}
