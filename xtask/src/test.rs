//! `cargo xtask test`: every check and every test, as CI runs them.

use anyhow::{Context, Result};
use testbed::{Progress, Workspace};

use crate::{build, cargo, image, kernels, setup};

/// The crate that is compiled for another target, outside of the workspace.
const EBPF: &str = "--manifest-path dataplane-ebpf/Cargo.toml";

/// Runs everything; the first failure ends it, except among tests, which all run.
///
/// # Errors
/// A check or a test failed.
pub(crate) fn run(workspace: &Workspace, progress: &Progress) -> Result<()> {
    setup::ensure(workspace, progress)?;
    setup::ensure_kernels(workspace, progress)?;
    progress.step("check: formatting");
    cargo::run(workspace, "fmt --all --check")
        .and_then(|()| cargo::run(workspace, &format!("fmt {EBPF} --check")))
        .context("run `cargo fmt --all`")?;
    // Before the lints, so that the crate that embeds the object is compiled once.
    build::ebpf(workspace, progress)?;
    progress.step("check: lints");
    cargo::run(workspace, "clippy --workspace --all-targets -- -D warnings")?;
    lint_ebpf(workspace)?;
    progress.step("build: programs and tests");
    cargo::run(workspace, "build --workspace --all-targets")?;
    image::build(workspace, progress)?;
    kernels::check(workspace, progress)?;
    progress.step("test: everything");
    // CI: a test that would skip itself for want of a privilege fails instead.
    let mut nextest = cargo::command(workspace, "nextest run --workspace --profile ci");
    cargo::run_to_end(nextest.env("CI", "true"), "the tests")?;
    progress.step("test: all passed");
    Ok(())
}

/// Lints the eBPF programs as if they were for this machine: clippy comes with the stable
/// compiler, which has no `core` for BPF and takes unstable features only when told to.
fn lint_ebpf(workspace: &Workspace) -> Result<()> {
    let mut lint = cargo::command(workspace, &format!("clippy {EBPF} --release --target-dir"));
    lint.arg(workspace.target().join("bpf-lint"))
        .args(["--", "-D", "warnings"])
        .env("RUSTC_BOOTSTRAP", "1");
    cargo::run_to_end(&mut lint, "clippy of dataplane-ebpf")
}
