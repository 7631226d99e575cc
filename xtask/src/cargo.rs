//! Running cargo and other tools, with what they print passed through.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Context, Result, bail};
use testbed::Workspace;

/// A cargo command in the workspace's root; `arguments` are separated by spaces.
pub(crate) fn command(workspace: &Workspace, arguments: &str) -> Command {
    // The cargo that runs this program, so that its toolchain is the one that builds the rest.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace.root())
        .args(arguments.split_whitespace());
    command
}

/// Runs cargo in the workspace's root; `arguments` are separated by spaces.
///
/// # Errors
/// It failed; what it said is on standard error already.
pub(crate) fn run(workspace: &Workspace, arguments: &str) -> Result<()> {
    run_to_end(
        &mut command(workspace, arguments),
        &format!("cargo {arguments}"),
    )
}

/// Runs any command with its output passed through.
///
/// # Errors
/// It cannot be run, or failed; the error names `what`.
pub(crate) fn run_to_end(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("run {what}"))?;
    if !status.success() {
        bail!("{what}: {status}");
    }
    Ok(())
}

/// What a command prints, when it can be run and succeeds.
pub(crate) fn probe(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let done = Command::new(program).args(arguments).output().ok()?;
    done.status
        .success()
        .then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
}
