//! What a node knows before it has spoken to anybody: `agent.toml` and its certificate.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use fairlead_api::{NodeName, VpcId, cluster_dns};
use fairlead_dataplane::FlowLimits;
use fairlead_dns::process::Listen;
use serde::{Deserialize, Serialize};

/// How many pods a node takes, as upstream's kubelet.
pub(crate) const PODS_MAX: u32 = 110;

/// Where a machine says whom it asks for names.
pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// `agent.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) node_name: NodeName,
    /// Where the other nodes reach this one.
    pub(crate) address: IpAddr,
    /// The node's address of the other family, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) other_address: Option<IpAddr>,
    pub(crate) uplinks: Vec<String>,
    /// Members of the control plane, tried in order.
    pub(crate) control_endpoints: Vec<SocketAddr>,
    pub(crate) bpffs: PathBuf,
    pub(crate) cgroup: PathBuf,
    pub(crate) cgroup_prefix: String,
    pub(crate) run_dir: PathBuf,
    pub(crate) log_dir: PathBuf,
    /// Whom to ask for names that are not the cluster's, in the form of resolv.conf(5).
    #[serde(default = "resolv_conf")]
    pub(crate) resolv_conf: PathBuf,
    /// Whom to ask instead of those that the file names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) dns_upstreams: Vec<SocketAddr>,
    #[serde(default, skip_serializing_if = "Flows::is_default")]
    pub(crate) flows: Flows,
}

fn resolv_conf() -> PathBuf {
    PathBuf::from(RESOLV_CONF)
}

/// How much the noting of flows may take of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Flows {
    /// Flows noted in a second at most; 0: as many as come.
    pub(crate) notes_per_second: u32,
    /// Percent of what the other services leave that one service may have.
    pub(crate) service_share: Percent,
}

impl Default for Flows {
    fn default() -> Self {
        let limits = FlowLimits::default();
        Self {
            notes_per_second: limits.notes_per_second,
            service_share: Percent(limits.service_share_percent),
        }
    }
}

impl Flows {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// As the dataplane has them.
    pub(crate) fn limits(self) -> FlowLimits {
        FlowLimits {
            notes_per_second: self.notes_per_second,
            service_share_percent: self.service_share.0,
        }
    }
}

/// A part of something, of 100; never nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16")]
pub(crate) struct Percent(u8);

impl TryFrom<u16> for Percent {
    type Error = String;

    fn try_from(percent: u16) -> Result<Self, String> {
        match u8::try_from(percent) {
            Ok(percent @ 1..=100) => Ok(Self(percent)),
            _ => Err(format!("{percent} is no percentage from 1 to 100")),
        }
    }
}

/// The root of cgroups version 2: `unified` where version 1 is mounted too.
pub(crate) fn default_cgroup() -> PathBuf {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.is_dir() {
        unified.to_owned()
    } else {
        PathBuf::from("/sys/fs/cgroup")
    }
}

impl Config {
    /// The node's own addresses, the one it is reached at first.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(self.address), self.other_address]
            .into_iter()
            .flatten()
    }

    /// What the dataplane needs of it.
    pub(crate) fn dataplane(&self, layout: &Layout) -> fairlead_dataplane::Config {
        fairlead_dataplane::Config {
            node_name: self.node_name.clone(),
            address: self.address,
            other_address: self.other_address,
            uplinks: self.uplinks.clone(),
            bpffs: self.bpffs.clone(),
            cgroup: self.cgroup.clone(),
            state_dir: layout.state(),
            flow_limits: self.flows.limits(),
        }
    }

    /// What the pods need of it.
    pub(crate) fn pods(&self, layout: &Layout) -> fairlead_pods::Config {
        fairlead_pods::Config {
            node_name: self.node_name.clone(),
            node_ips: self.addresses().collect(),
            data_dir: layout.root().to_owned(),
            run_dir: self.run_dir.clone(),
            log_dir: self.log_dir.clone(),
            cgroup_prefix: self.cgroup_prefix.clone(),
            cgroup_v2: self.cgroup.clone(),
            max_pods: PODS_MAX,
            resolv_conf: self.resolv_conf.clone(),
            shim_command: fairlead_pods::Config::default_shim_command(),
        }
    }

    /// What the DNS needs of it.
    pub(crate) fn dns(&self, layout: &Layout) -> fairlead_dns::process::Config {
        let listen = self.addresses().map(|address| Listen {
            vpc: VpcId::default().0,
            address: SocketAddr::new(address, cluster_dns::NODE_PORT),
        });
        fairlead_dns::process::Config {
            socket: self.run_dir.join("dns.sock"),
            state: layout.state().join("dns.bin"),
            listen: listen.collect(),
            node: self.addresses().collect(),
            upstreams: self.dns_upstreams.clone(),
            resolv_conf: self.resolv_conf.clone(),
        }
    }
}

/// Where things lie below a node's data directory.
#[derive(Clone)]
pub(crate) struct Layout(PathBuf);

impl Layout {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self(data_dir.to_owned())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.0
    }

    fn config(&self) -> PathBuf {
        self.0.join("agent.toml")
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.0.join("pki/node.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.0.join("pki/node.key")
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.0.join("pki/ca.pem")
    }

    /// Where `netctl --socket` finds this agent.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    /// Pod addresses in use, names of the cluster.
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// Makes the directories, readable by their owner alone, and refuses one that is in use.
    pub(crate) fn create(&self) -> anyhow::Result<()> {
        let config = self.config();
        if config.exists() {
            bail!(
                "{} exists: this host is a node already (to start over, run `fairlead-agent \
                 cleanup` and remove {})",
                config.display(),
                self.0.display()
            );
        }
        let directories = [self.0.clone(), self.0.join("pki"), self.0.join("images")];
        Ok(fairlead_config::create_private(&directories)?)
    }

    pub(crate) fn load_config(&self) -> anyhow::Result<Config> {
        let path = self.config();
        fairlead_config::load(&path)?.with_context(|| {
            format!(
                "{} does not exist: run `fairlead-agent join` first",
                path.display()
            )
        })
    }

    /// Written last by join: a directory with a configuration is complete.
    pub(crate) fn save_config(&self, config: &Config) -> anyhow::Result<()> {
        Ok(fairlead_config::save(&self.config(), config)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_flows_have_defaults_and_bounds() {
        let flows = |text: &str| serde_saphyr::from_str::<Flows>(text);
        assert_eq!(flows("{}").unwrap().limits(), FlowLimits::default());
        let limits = flows("{notes_per_second: 0, service_share: 100}");
        let expected = FlowLimits {
            notes_per_second: 0,
            service_share_percent: 100,
        };
        assert_eq!(limits.unwrap().limits(), expected);
        for wrong in [0, 101] {
            let error = flows(&format!("service_share: {wrong}")).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("no percentage from 1 to 100"), "{text}");
        }
    }
}
