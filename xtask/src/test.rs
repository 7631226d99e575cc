//! `cargo xtask test`: every check and every test, as CI runs them.

use anyhow::{Context, Result};
use testbed::{Progress, Workspace};

use crate::{build, cargo, image, setup};

/// The crate that is compiled for another target, outside of the workspace.
const EBPF: &str = "--manifest-path dataplane-ebpf/Cargo.toml";

/// Runs everything; the first failure ends it, except among tests, which all run.
///
/// # Errors
/// A check or a test failed.
pub(crate) fn run(workspace: &Workspace, progress: &Progress) -> Result<()> {
    setup::ensure(workspace, progress)?;
    progress.step("check: formatting");
    cargo::run(workspace, "fmt --all --check")
        .and_then(|()| cargo::run(workspace, &format!("fmt {EBPF} --check")))
        .context("run `cargo fmt --all`")?;
    // Before the lints, so that the crate that embeds the object is compiled once.
    build::ebpf(workspace, progress)?;
    progress.step("check: lints");
    cargo::run(workspace, "clippy --workspace --all-targets -- -D warnings")?;
    progress.step("build: programs and tests");
    cargo::run(workspace, "build --workspace --all-targets")?;
    image::build(workspace, progress)?;
    progress.step("test: everything");
    // CI: a test that would skip itself for want of a privilege fails instead.
    let mut nextest = cargo::command(workspace, "nextest run --workspace --profile ci");
    cargo::run_to_end(nextest.env("CI", "true"), "the tests")?;
    progress.step("test: all passed");
    Ok(())
}
