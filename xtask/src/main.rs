//! The project's commands: `cargo xtask COMMAND`.

#![forbid(unsafe_code)]

mod api_types;
mod bench;
mod build;
mod build_ebpf;
mod cargo;
mod dist;
mod down;
mod exec;
mod image;
mod kernels;
mod setup;
mod status;
mod table;
mod test;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use testbed::{Progress, Workspace};

/// Builds, runs, tests and measures Fairlead.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find or install everything that building and testing needs.
    Setup,
    /// Build everything: the eBPF object, the programs, the example's image.
    Build,
    /// Build the eBPF object that the agent embeds.
    BuildEbpf,
    /// Build the example application and pack it as an OCI image.
    Image,
    /// Start a cluster on this machine, deploy the example and send it requests.
    Up(up::Options),
    /// Remove a cluster, whatever state it is in.
    Down(down::Options),
    /// Show the clusters on this machine.
    Status,
    /// Run a command on a host of a cluster: client, router, control-1, node-1…
    Exec(exec::Options),
    /// Run every check and every test, as CI does.
    Test,
    /// Check that the programs work in the kernels that Debian ships, in virtual machines.
    Kernels,
    /// Measure, against what a user would pick instead.
    #[command(subcommand)]
    Bench(bench::Subject),
    /// Write the table of the API's types anew, from Kubernetes' own sources.
    ApiTypes(api_types::Options),
    /// Make the folder that is copied to real machines: target/dist.
    Dist,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    let progress = Progress::start();
    match command {
        Command::Setup => setup::run(&workspace, &progress)?,
        Command::Build => {
            setup::ensure(&workspace, &progress)?;
            build::everything(&workspace, &progress)?;
        }
        Command::BuildEbpf => {
            setup::ensure(&workspace, &progress)?;
            build::ebpf(&workspace, &progress)?;
        }
        Command::Image => image::build(&workspace, &progress)?,
        Command::Up(options) => up::run(&options, &workspace, &progress)?,
        Command::Down(options) => down::run(&options, &workspace, &progress)?,
        Command::Status => status::run(&workspace)?,
        Command::Exec(options) => return exec::run(&options, &workspace),
        Command::Test => test::run(&workspace, &progress)?,
        Command::Kernels => kernels::run(&workspace, &progress)?,
        Command::Bench(subject) => bench::run(&subject, &workspace, &progress)?,
        Command::ApiTypes(options) => api_types::run(&options, &workspace, &progress)?,
        Command::Dist => dist::run(&workspace, &progress)?,
    }
    Ok(ExitCode::SUCCESS)
}
