//! Debian's kernels, unpacked for virtual machines: this machine keeps its own.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use testbed::Workspace;

use super::packages;
use crate::cargo::{probe, run_to_end};
use crate::kernels::{SERIES, image};

/// Beside a kernel, names the package it is from.
const SOURCE: &str = "package";

/// The packages they are from, when all are there.
pub(super) fn find(workspace: &Workspace) -> Option<String> {
    let found: Option<Vec<String>> = SERIES
        .into_iter()
        .map(|series| {
            let kernel = image(workspace, series);
            let package = fs::read_to_string(kernel.with_file_name(SOURCE)).ok()?;
            kernel.is_file().then_some(package)
        })
        .collect();
    Some(found?.join(", "))
}

/// # Errors
/// Debian's packages are out of reach, or have no kernel of a series.
pub(super) fn install(workspace: &Workspace) -> Result<()> {
    for series in SERIES {
        install_series(workspace, series)
            .with_context(|| format!("get Debian's kernel {series}"))?;
    }
    Ok(())
}

fn install_series(workspace: &Workspace, series: &str) -> Result<()> {
    let package = package_of(series).or_else(|_| {
        packages::update()?;
        package_of(series)
    })?;
    let folder = super::fresh_folder(workspace, &format!("kernel-{series}"))?;
    packages::download(&package, &folder)?;
    let archive = super::only_file(&folder)?;
    let mut unpack = Command::new("dpkg");
    unpack.arg("-x").arg(&archive).arg(&folder);
    run_to_end(&mut unpack, &format!("unpack {package}"))?;

    let kernel = image(workspace, series);
    let place = kernel.parent().expect("kernels are in folders");
    let release = package.trim_start_matches("linux-image-");
    fs::create_dir_all(place)
        .and_then(|()| fs::rename(folder.join(format!("boot/vmlinuz-{release}")), &kernel))
        .and_then(|()| fs::write(kernel.with_file_name(SOURCE), &package))
        .and_then(|()| fs::remove_dir_all(&folder))
        .with_context(|| format!("place {}", kernel.display()))
}

/// The package with the newest kernel of a series, for virtual machines: what Debian's packages
/// without a version of their own depend on. Which of these has the series, depends on the release.
fn package_of(series: &str) -> Result<String> {
    let candidates = [
        format!("linux-image-{series}-cloud-amd64"),
        "linux-image-cloud-amd64".to_owned(),
    ];
    for candidate in &candidates {
        let listed = probe("apt-cache", &["depends", "--important", candidate]);
        if let Some(package) = listed.and_then(|listed| dependency(&listed, series)) {
            return Ok(package);
        }
    }
    bail!("none of {} depends on one", candidates.join(" and "));
}

/// The kernel of a series in what apt-cache(8) prints of a package's dependencies.
fn dependency(listed: &str, series: &str) -> Option<String> {
    let prefix = format!("linux-image-{series}.");
    listed
        .split_whitespace()
        .find(|word| word.starts_with(&prefix))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_found_among_the_dependencies_of_its_series_only() {
        let listed = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        let expected = "linux-image-6.1.0-56-cloud-amd64".to_owned();
        assert_eq!(dependency(listed, "6.1"), Some(expected));
        assert_eq!(dependency(listed, "6.12"), None);
        let listed = "linux-image-6.12-cloud-amd64\n  Depends: linux-image-6.12.9-cloud-amd64\n";
        assert_eq!(dependency(listed, "6.1"), None);
    }
}
