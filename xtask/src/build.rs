//! Building everything once, in the order in which one thing needs another.

use anyhow::Result;
use testbed::{Progress, Workspace};

use crate::{build_ebpf, cargo, image};

/// Builds the eBPF object, every program, and the example's image.
///
/// # Errors
/// One does not build.
pub(crate) fn everything(workspace: &Workspace, progress: &Progress) -> Result<()> {
    ebpf(workspace, progress)?;
    progress.step("build: programs");
    cargo::run(workspace, "build --workspace --bins")?;
    image::build(workspace, progress)
}

/// Builds the eBPF object. It comes first: the agent embeds it.
///
/// # Errors
/// It does not build.
pub(crate) fn ebpf(workspace: &Workspace, progress: &Progress) -> Result<()> {
    progress.step("build: eBPF object");
    let built = build_ebpf::run(workspace.root())?;
    progress.step(format!("build: deepest stack {}", built.deepest));
    progress.step(format!("build: {}", built.object.display()));
    Ok(())
}
