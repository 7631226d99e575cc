//! `cargo xtask down`: removes clusters, whatever state they are in.

use anyhow::{Result, bail};
use clap::Args;
use testbed::cluster::{Cluster, DEFAULT_NAME, Remains};
use testbed::{Progress, Workspace};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The cluster's name.
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// All clusters that have files in this work tree.
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

/// Removes one cluster or all.
///
/// # Errors
/// Something is left; the error names it.
pub(crate) fn run(options: &Options, workspace: &Workspace, progress: &Progress) -> Result<()> {
    let names = if options.all {
        let mut names = Cluster::names(workspace)?;
        // Another work tree's clusters are seen by their namespaces, but are not ours.
        names.retain(|name| workspace.clusters().join(name).is_dir());
        names
    } else {
        vec![options.name.clone()]
    };
    let mut failures = Vec::new();
    for name in names {
        let layout = Cluster::layout_of(workspace, &name)?;
        let remains = Remains::of(&layout);
        if remains.is_empty() {
            progress.step(format!("{name}: nothing is there"));
            continue;
        }
        progress.step(format!("{name}: remove {remains}"));
        if let Err(error) = remains.remove() {
            failures.push(format!("{error:#}"));
            continue;
        }
        let left = Remains::of(&layout);
        if left.is_empty() {
            progress.step(format!("{name}: removed"));
        } else {
            failures.push(format!("cluster {name}: {left} left"));
        }
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}
