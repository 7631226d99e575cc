//! A whole cluster on this machine: real binaries in hosts made of network namespaces.

mod application;
mod baseline;
mod fixture;
mod layout;
mod network;
mod pod;
mod remains;
mod spec;
mod start;
mod state;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

pub use application::Published;
pub use baseline::Baseline;
pub use fixture::TestCluster;
pub use layout::{CLIENT, CLIENT_V6, Layout, address, address_v6, client_of};
pub use pod::PodProcess;
pub use remains::Remains;
pub use spec::{Host, Spec, VIP_POOL, VIP_POOL_V6, validate_name};
pub use state::State;

use crate::cgroup::Hierarchies;
use crate::process::last_lines;
use crate::traffic::{DatagramsReport, Report};
use crate::{Deadline, Kubectl, Launch, NetNs, ProcessId, Workspace};

/// The name of the cluster that commands mean when none is given.
pub const DEFAULT_NAME: &str = "default";

/// The Kubernetes client that commands mean when none is given, in the folder of tools.
pub const KUBECTL: &str = "kubectl";

/// The oldest Kubernetes client that must work.
pub const KUBECTL_OLD: &str = "kubectl-1.20";

/// A cluster that is running, or was.
#[derive(Debug)]
pub struct Cluster {
    workspace: Workspace,
    layout: Layout,
    state: State,
}

impl Cluster {
    /// Finds a cluster by its name.
    ///
    /// # Errors
    /// There is none, or it died before its state was written.
    pub fn open(workspace: &Workspace, name: &str) -> Result<Self> {
        let layout = Self::layout_of(workspace, name)?;
        ensure!(
            layout.state_file().exists(),
            "there is no cluster {name:?}: start one with `cargo xtask up --name {name}`"
        );
        Ok(Self {
            workspace: workspace.clone(),
            state: State::load(&layout.state_file())?,
            layout,
        })
    }

    /// The names, addresses and paths of a cluster, whether it runs or not.
    ///
    /// # Errors
    /// The name is not one, or this machine has no cgroup v2.
    pub fn layout_of(workspace: &Workspace, name: &str) -> Result<Layout> {
        validate_name(name)?;
        Ok(Layout::new(
            name,
            &workspace.clusters(),
            Hierarchies::mounted()?,
        ))
    }

    /// The names of all clusters that have files or a switch here.
    ///
    /// # Errors
    /// The folder of clusters or the list of namespaces cannot be read.
    pub fn names(workspace: &Workspace) -> Result<Vec<String>> {
        let folder = workspace.clusters();
        let mut names = BTreeSet::new();
        if folder.exists() {
            for entry in fs::read_dir(&folder).context("list clusters")? {
                let path = entry.context("list clusters")?.path();
                if path.is_dir() {
                    names.extend(
                        path.file_name()
                            .map(|name| name.to_string_lossy().into_owned()),
                    );
                }
            }
        }
        let namespaces = NetNs::names()?;
        let switches = namespaces
            .iter()
            .filter_map(|netns| Layout::cluster_of_switch(&folder, netns));
        names.extend(switches.map(str::to_owned));
        names.retain(|name| validate_name(name).is_ok());
        Ok(names.into_iter().collect())
    }

    /// What was asked for.
    pub fn spec(&self) -> &Spec {
        &self.state.spec
    }

    /// Its names, addresses and paths.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The project's files.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The process that was started on a host, if one was.
    pub fn process(&self, host: Host) -> Option<ProcessId> {
        self.state.processes.get(&host.to_string()).copied()
    }

    /// A host's network namespace.
    ///
    /// # Errors
    /// The cluster has no such host, or it died.
    pub fn netns(&self, host: Host) -> Result<NetNs> {
        ensure!(
            self.state.spec.hosts().contains(&host),
            "cluster {} has no {host}",
            self.layout.name()
        );
        NetNs::open(&self.layout.netns(host))
    }

    /// A launch of `program` on a host: in its network namespace and its cgroup.
    ///
    /// # Errors
    /// The cluster has no such host.
    pub fn launch(&self, host: Host, program: impl AsRef<OsStr>) -> Result<Launch> {
        Ok(Launch::new(program.as_ref())
            .netns(self.netns(host)?.file()?)
            .cgroup(self.layout.process_cgroup(host)))
    }

    /// Runs a program on a host to its end, and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error holds what it said.
    pub fn exec(
        &self,
        host: Host,
        program: impl AsRef<OsStr>,
        arguments: &[&str],
    ) -> Result<String> {
        let command = self
            .launch(host, program.as_ref())?
            .arguments(arguments)
            .command()?;
        run_to_end(
            command,
            &format!("{} on {host}", program.as_ref().display()),
        )
    }

    /// Sends counted HTTP traffic from a host; `arguments` are those of `traffic http`.
    ///
    /// # Errors
    /// The program could not be run; failed requests are no error.
    pub fn traffic(&self, host: Host, arguments: &str) -> Result<Report> {
        let command = self.traffic_command(host, arguments)?;
        parse_report(command, host)
    }

    /// Sends numbered datagrams from a host; `arguments` are those of `traffic datagrams`, with
    /// `--each`.
    ///
    /// # Errors
    /// The program could not be run; lost datagrams are no error.
    pub fn datagrams(&self, host: Host, arguments: &str) -> Result<DatagramsReport> {
        let command = self
            .launch(host, self.workspace.binary("traffic")?)?
            .arguments(["datagrams"])
            .arguments(arguments.split_whitespace())
            .command()?;
        parse_report(command, host)
    }

    /// A command that sends counted HTTP traffic from a host.
    ///
    /// # Errors
    /// The program is not built.
    pub fn traffic_command(&self, host: Host, arguments: &str) -> Result<Command> {
        self.launch(host, self.workspace.binary("traffic")?)?
            .arguments(["http"])
            .arguments(arguments.split_whitespace())
            .command()
    }

    /// The default kubectl, speaking to the first control host.
    ///
    /// # Errors
    /// It is not installed.
    pub fn kubectl(&self) -> Result<Kubectl> {
        self.kubectl_of(KUBECTL, Host::Control(1))
    }

    /// The kubectl of this name in the folder of tools, speaking to one control host.
    ///
    /// # Errors
    /// It is not installed.
    pub fn kubectl_of(&self, name: &str, control: Host) -> Result<Kubectl> {
        let program = self.workspace.tools().join(name);
        ensure!(
            program.exists(),
            "{} is missing: run `cargo xtask setup`",
            program.display()
        );
        Ok(Kubectl::new(
            program,
            self.layout.kubeconfig_of(control),
            self.layout.folder().join("kubectl-cache"),
        ))
    }

    /// Checks that every process that was started still runs.
    ///
    /// # Errors
    /// One has ended: the error holds the last lines it printed.
    pub fn check_processes(&self) -> Result<()> {
        for (host, process) in &self.state.processes {
            if !process.is_running() {
                let log = self.layout.log(host.parse()?);
                bail!(
                    "the program on {host} has ended; the end of {}:\n{}",
                    log.display(),
                    last_lines(&log, 30)
                );
            }
        }
        Ok(())
    }

    /// Looks until `look` answers `Ok(Some(value))`, and gives up early when a process has ended.
    ///
    /// # Errors
    /// The deadline passed or a process has ended.
    pub fn wait_for<T>(
        &self,
        deadline: Deadline,
        what: &str,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        deadline.wait_for(what, || match self.check_processes() {
            Ok(()) => Ok(look()?.map(Ok)),
            Err(ended) => Ok(Some(Err(ended))),
        })?
    }

    /// Kills a host's process without warning, as `kill -9` does.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill(&mut self, host: Host) -> Result<()> {
        let name = host.to_string();
        let Some(process) = self.state.processes.remove(&name) else {
            bail!("nothing was started on {host}");
        };
        process.signal(Signal::SIGKILL)?;
        process.wait_for_end(Deadline::seconds(10))?;
        self.save()
    }

    /// Starts a host's process again, with the files it left.
    ///
    /// # Errors
    /// It still runs, or cannot be started.
    pub fn restart(&mut self, host: Host) -> Result<()> {
        ensure!(
            self.process(host)
                .is_none_or(|process| !process.is_running()),
            "the program on {host} still runs"
        );
        match host {
            Host::Control(_) => self.start_control(host),
            Host::Node(_) => self.start_agent(host),
            Host::Switch | Host::Router | Host::Client => bail!("nothing runs on {host}"),
        }
    }

    fn save(&self) -> Result<()> {
        self.state.save(&self.layout.state_file())
    }

    fn record(&mut self, host: Host, process: ProcessId) -> Result<()> {
        self.state.processes.insert(host.to_string(), process);
        self.save()
    }

    /// The socket on 127.0.0.1, outside of all namespaces, through which the shell reaches the
    /// API of a control host. The same port again when the host is started again.
    fn api_listener(&mut self, control: Host) -> Result<TcpListener> {
        let port = self.state.api_ports.get(&control.to_string()).copied();
        let listener = TcpListener::bind(("127.0.0.1", port.unwrap_or(0)))
            .with_context(|| format!("open a port on 127.0.0.1 for {control}"))?;
        let port = listener.local_addr().context("read the port")?.port();
        self.state.api_ports.insert(control.to_string(), port);
        self.save()?;
        Ok(listener)
    }
}

fn run_to_end(mut command: Command, what: &str) -> Result<String> {
    let done = command
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("run {what}"))?;
    ensure!(
        done.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn parse_report<R: DeserializeOwned>(command: Command, host: impl std::fmt::Display) -> Result<R> {
    let text = run_to_end(command, &format!("traffic from {host}"))?;
    serde_json::from_str(&text).with_context(|| format!("understand the traffic report {text:?}"))
}
