//! Debian's packages.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{probe, run_to_end};

/// The versions of the packages, when all are installed.
pub(super) fn find(packages: &[&str]) -> Option<String> {
    let mut arguments = vec!["-W", "-f", "${Package} ${db:Status-Status} ${Version}\n"];
    arguments.extend(packages);
    let listed = probe("dpkg-query", &arguments)?;
    let mut versions = Vec::new();
    for line in listed.lines() {
        let mut fields = line.split(' ');
        let (Some(name), Some("installed"), Some(version)) =
            (fields.next(), fields.next(), fields.next())
        else {
            return None;
        };
        versions.push(format!("{name} {version}"));
    }
    Some(versions.join(", "))
}

/// Installs the packages.
///
/// # Errors
/// This machine has no apt, this user may not use it, or it fails.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if probe("apt-get", &["--version"]).is_none() {
        bail!("this machine has no apt-get: install what Debian calls {list} another way");
    }
    ensure!(
        probe("id", &["-u"]).as_deref() == Some("0"),
        "run `apt-get install {list}` as root"
    );
    if apt(&["install"], packages).is_ok() {
        return Ok(());
    }
    // A machine that never asked for lists of packages, or whose lists are old, finds nothing.
    update()?;
    apt(&["install"], packages)
}

/// Asks for the lists of packages.
///
/// # Errors
/// Debian's packages are out of reach.
pub(super) fn update() -> Result<()> {
    apt(&["update"], &[])
}

/// Downloads a package's archive to the current folder of `command`.
///
/// # Errors
/// There is no such package.
pub(super) fn download(package: &str, folder: &std::path::Path) -> Result<()> {
    let download = || {
        let mut command = Command::new("apt-get");
        command
            .args(["-q", "download", package])
            .current_dir(folder);
        run_to_end(&mut command, &format!("apt-get download {package}"))
    };
    download().or_else(|_| {
        update()?;
        download()
    })
}

fn apt(verb: &[&str], packages: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-y", "--no-install-recommends"])
        .args(verb)
        .args(packages);
    run_to_end(&mut command, &format!("apt-get {}", verb.join(" "))).context("install packages")
}
