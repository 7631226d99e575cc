//! Tools of Rust: the compiler of the packet path, its linker, the test runner.

use std::ffi::OsStr;

use anyhow::{Context, Result};
use testbed::Workspace;

use crate::build_ebpf;
use crate::cargo::{self, probe};

/// The version of bpf-linker that is known to work; it must match the compiler's LLVM.
const BPF_LINKER: &str = "0.10.3";

/// The first line of what a tool says of its version.
pub(super) fn version_of(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let text = probe(program, arguments)?;
    text.lines().next().map(str::to_owned)
}

/// The compiler that can build `core` for BPF: one whose sources are installed with it.
pub(super) fn find_bpf_rustc() -> Option<String> {
    let rustc = build_ebpf::find_compiler().ok()?;
    let version = version_of(&rustc, &["--version"])?;
    Some(format!("{version} with its sources ({})", rustc.display()))
}

pub(super) fn find_bpf_linker() -> Option<String> {
    version_of(build_ebpf::find_linker().ok()?, &["--version"])
}

/// # Errors
/// It does not build.
pub(super) fn install_bpf_linker(workspace: &Workspace) -> Result<()> {
    install(workspace, &format!("bpf-linker --version {BPF_LINKER}"))
}

/// # Errors
/// It does not build.
pub(super) fn install_nextest(workspace: &Workspace) -> Result<()> {
    install(workspace, "cargo-nextest")
}

fn install(workspace: &Workspace, what: &str) -> Result<()> {
    let mut command = cargo::command(workspace, &format!("install --locked {what}"));
    // Its artifacts stay out of the workspace's.
    command.env("CARGO_TARGET_DIR", workspace.target().join("tools/build"));
    cargo::run_to_end(&mut command, &format!("cargo install {what}"))
        .context("install it by hand, then try again")
}
