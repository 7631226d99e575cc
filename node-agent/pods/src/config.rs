//! What the agent tells this crate about its node.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use fairlead_api::NodeName;

use crate::shim::SHIM_ARGUMENT;

/// Where a node's pods live and what they are told about it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node_name: NodeName,
    /// The node's addresses: `status.hostIPs`.
    pub node_ips: Vec<IpAddr>,
    /// Images, writable layers and volumes. Image archives are laid into `images/` below it.
    pub data_dir: PathBuf,
    /// Shims and network namespaces; may be lost with a reboot.
    pub run_dir: PathBuf,
    /// Container logs, in the layout of `/var/log/pods`.
    pub log_dir: PathBuf,
    /// The node's cgroup, relative to the root of each v1 hierarchy: `fairlead/CLUSTER/NODE`.
    pub cgroup_prefix: String,
    /// The node's cgroup v2 directory.
    pub cgroup_v2: PathBuf,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// Whom the node asks for names, in the form of resolv.conf(5); some pods ask the same.
    pub resolv_conf: PathBuf,
    /// Program and arguments that enter [`shim_main`](crate::shim_main).
    pub shim_command: Vec<OsString>,
}

impl Config {
    /// The command of a program that calls [`shim_main`](crate::shim_main) when its first argument
    /// is [`SHIM_ARGUMENT`]: this very program.
    pub fn default_shim_command() -> Vec<OsString> {
        // The link follows the running binary even when an upgrade has replaced the file.
        vec!["/proc/self/exe".into(), SHIM_ARGUMENT.into()]
    }

    /// The pod's directory below `run_dir`: shim, containers, network namespace.
    pub(crate) fn pod_run_dir(&self, uid: &str) -> PathBuf {
        self.run_dir.join("pods").join(uid)
    }

    /// The pod's directory below `data_dir`: writable layers, volumes, generated files.
    pub(crate) fn pod_data_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }

    /// The pod's directory below `log_dir`.
    pub(crate) fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.log_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}
