//! Reaching into a pod from the outside.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Cluster, parse_report};
use crate::process::all_pids;
use crate::traffic::{Asked, DatagramsReport, Report};
use crate::{Deadline, Launch, NetNsHandle, ProcessId};

/// The application's process in a pod.
#[derive(Clone, Copy, Debug)]
pub struct PodProcess {
    /// Its identity on this machine.
    pub process: ProcessId,
}

impl Cluster {
    /// Finds the process that runs in the pod `name`, by the POD_NAME the example gives it.
    ///
    /// # Errors
    /// There is none at the deadline.
    pub fn pod_process(&self, name: &str, deadline: Deadline) -> Result<PodProcess> {
        self.wait_for(deadline, &format!("process of pod {name}"), || {
            Ok(self.find_pod_process(name))
        })
    }

    /// The process that runs in the pod `name` now.
    pub fn find_pod_process(&self, name: &str) -> Option<PodProcess> {
        let variable = format!("POD_NAME={name}");
        let group = format!("/{}/", self.layout.cgroup_name());
        all_pids().into_iter().find_map(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let is_pod = environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == variable.as_bytes());
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
            if !is_pod || !groups.contains(&group) {
                return None;
            }
            ProcessId::of(pid).map(|process| PodProcess { process })
        })
    }

    /// A launch of a program of this machine in the network and the cgroups of a pod.
    ///
    /// # Errors
    /// The pod's process has ended.
    pub fn launch_in_pod(&self, pod: &PodProcess, program: impl AsRef<OsStr>) -> Result<Launch> {
        let pid = pod.process.pid;
        let netns = NetNsHandle::open(format!("/proc/{pid}/ns/net"))?.file()?;
        Ok(Launch::new(program.as_ref())
            .netns(netns)
            .cgroup(self.unified_cgroup(pid)?))
    }

    /// Sends counted HTTP traffic from a pod; `arguments` are those of `traffic http`.
    ///
    /// # Errors
    /// The program could not be run; failed requests are no error.
    pub fn traffic_from_pod(&self, pod: &PodProcess, arguments: &str) -> Result<Report> {
        let command = self
            .launch_in_pod(pod, self.workspace.binary("traffic")?)?
            .arguments(["http"])
            .arguments(arguments.split_whitespace())
            .command()?;
        parse_report(command, "a pod")
    }

    /// Sends numbered datagrams from a pod; `arguments` are those of `traffic datagrams`, with
    /// `--each`.
    ///
    /// # Errors
    /// The program could not be run; lost datagrams are no error.
    pub fn datagrams_from_pod(&self, pod: &PodProcess, arguments: &str) -> Result<DatagramsReport> {
        let command = self
            .launch_in_pod(pod, self.workspace.binary("traffic")?)?
            .arguments(["datagrams"])
            .arguments(arguments.split_whitespace())
            .command()?;
        parse_report(command, "a pod")
    }

    /// Sends one datagram from a pod; `arguments` are those of `traffic ask`.
    ///
    /// # Errors
    /// The program could not be run, or nobody answered.
    pub fn ask_from_pod(&self, pod: &PodProcess, arguments: &str) -> Result<Asked> {
        let command = self
            .launch_in_pod(pod, self.workspace.binary("traffic")?)?
            .arguments(["ask"])
            .arguments(arguments.split_whitespace())
            .command()?;
        parse_report(command, "a pod")
    }

    /// The v2 cgroup of a process: the line of hierarchy 0 in cgroups(7).
    fn unified_cgroup(&self, pid: i32) -> Result<PathBuf> {
        let path = format!("/proc/{pid}/cgroup");
        let groups = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let group = groups
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .with_context(|| format!("{path} names no v2 cgroup"))?;
        Ok(self.layout.hierarchies().unified.join(group))
    }
}
