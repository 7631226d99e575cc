//! `cargo xtask setup`: finds or installs what building and testing needs.
//!
//! Each need is looked for first, so that a second run changes nothing. What cannot be installed
//! is reported with what to do about it, after everything else has been tried.

mod kernels;
mod kubectl;
mod packages;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use testbed::{Progress, Workspace};

/// Something that must be there.
struct Need {
    /// What it is called in reports.
    name: &'static str,
    /// What it is for.
    purpose: &'static str,
    /// Answers what was found, or nothing.
    find: fn(&Workspace) -> Option<String>,
    /// Installs it.
    install: fn(&Workspace) -> Result<()>,
}

/// What makes hosts of network namespaces, and asks them.
const NETWORK_TOOLS: &[&str] = &["iproute2", "ethtool", "nftables", "curl", "bind9-dnsutils"];

/// In the order of installing: later ones are installed with the help of earlier ones.
const NEEDS: [Need; 7] = [
    Need {
        name: "BPF compiler",
        purpose: "a rustc with the sources of core, to compile the packet path",
        find: |_| tools::find_bpf_rustc(),
        install: |_| packages::install(&["rustc-web", "rust-web-src"]),
    },
    Need {
        name: "bpf-linker",
        purpose: "links the packet path's programs",
        find: |_| tools::find_bpf_linker(),
        install: tools::install_bpf_linker,
    },
    Need {
        name: "protoc",
        purpose: "compiles the protocols between the parts",
        find: |_| tools::version_of("protoc", &["--version"]),
        install: |_| packages::install(&["protobuf-compiler"]),
    },
    Need {
        name: "network tools",
        purpose: "ip, ethtool, nft, curl, dig: hosts made of network namespaces",
        find: |_| packages::find(NETWORK_TOOLS),
        install: |_| packages::install(NETWORK_TOOLS),
    },
    Need {
        name: "cargo-nextest",
        purpose: "runs the tests",
        find: |_| tools::version_of("cargo-nextest", &["nextest", "--version"]),
        install: tools::install_nextest,
    },
    Need {
        name: "kubectl 1.37",
        purpose: "the current client, in target/tools/bin/kubectl",
        find: kubectl::find_current,
        install: kubectl::install_current,
    },
    Need {
        name: "kubectl 1.20",
        purpose: "the oldest client that must work, in target/tools/bin/kubectl-1.20",
        find: kubectl::find_old,
        install: kubectl::install_old,
    },
];

/// What only the check of other kernels needs.
const NEEDS_OF_KERNELS: [Need; 2] = [
    Need {
        name: "qemu",
        purpose: "runs other kernels than this machine's",
        find: |_| packages::find(&["qemu-system-x86"]),
        install: |_| packages::install(&["qemu-system-x86"]),
    },
    Need {
        name: "kernels",
        purpose: "those that Debian ships, in target/tools/kernels",
        find: kernels::find,
        install: kernels::install,
    },
];

/// Finds or installs everything and reports each.
///
/// # Errors
/// Something could not be installed; the error says what to do.
pub(crate) fn run(workspace: &Workspace, progress: &Progress) -> Result<()> {
    let needs = NEEDS.iter().chain(&NEEDS_OF_KERNELS);
    provide(needs, workspace, progress, true)
}

/// Finds or installs what most commands need, and reports only what changed.
///
/// # Errors
/// Something could not be installed; the error says what to do.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress) -> Result<()> {
    provide(&NEEDS, workspace, progress, false)
}

/// Finds or installs what the check of other kernels needs, and reports only what changed.
///
/// # Errors
/// Something could not be installed; the error says what to do.
pub(crate) fn ensure_kernels(workspace: &Workspace, progress: &Progress) -> Result<()> {
    provide(&NEEDS_OF_KERNELS, workspace, progress, false)
}

fn provide(
    needs: impl IntoIterator<Item = &'static Need>,
    workspace: &Workspace,
    progress: &Progress,
    report_found: bool,
) -> Result<()> {
    let mut failures = Vec::new();
    for need in needs {
        let name = need.name;
        if let Some(found) = (need.find)(workspace) {
            if report_found {
                progress.step(format!("setup: {name}: found {found}"));
            }
            continue;
        }
        progress.step(format!("setup: {name} ({}): install", need.purpose));
        let outcome = (need.install)(workspace).map(|()| (need.find)(workspace));
        match outcome {
            Ok(Some(installed)) => {
                progress.step(format!("setup: {name}: installed {installed}"));
            }
            Ok(None) => failures.push(format!("{name}: installed, but still not found")),
            Err(error) => failures.push(format!("{name}: {error:#}")),
        }
    }
    if !failures.is_empty() {
        bail!(
            "setup could not provide everything:\n  {}",
            failures.join("\n  ")
        );
    }
    Ok(())
}

/// An empty folder for what is downloaded.
fn fresh_folder(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let folder = workspace.target().join("tools/download").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

/// The only file that was downloaded.
fn only_file(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder)
        .with_context(|| format!("list {}", folder.display()))?
        .flatten();
    let file = entries.next().context("nothing was downloaded")?;
    Ok(file.path())
}
