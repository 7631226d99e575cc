//! `cargo xtask setup`: finds or installs what building and testing needs.
//!
//! Each need is looked for first, so that a second run changes nothing. What cannot be installed
//! is reported with what to do about it, after everything else has been tried.

mod kubectl;
mod packages;
mod tools;

use anyhow::{Result, bail};
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
        purpose: "ip, ethtool, nft, curl: hosts made of network namespaces",
        find: |_| packages::find(&["iproute2", "ethtool", "nftables", "curl"]),
        install: |_| packages::install(&["iproute2", "ethtool", "nftables", "curl"]),
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

/// Finds or installs everything and reports each.
///
/// # Errors
/// Something could not be installed; the error says what to do.
pub(crate) fn run(workspace: &Workspace, progress: &Progress) -> Result<()> {
    provide(workspace, progress, true)
}

/// Finds or installs everything and reports only what changed.
///
/// # Errors
/// Something could not be installed; the error says what to do.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress) -> Result<()> {
    provide(workspace, progress, false)
}

fn provide(workspace: &Workspace, progress: &Progress, report_found: bool) -> Result<()> {
    let mut failures = Vec::new();
    for need in &NEEDS {
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
