//! What a cluster consists of, and what its hosts are called.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// What a cluster consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The cluster's name, part of the name of everything it makes.
    pub name: String,
    /// How many nodes run pods, 1 to 99.
    pub nodes: u8,
    /// How many hosts run the control plane: 1, 3 or 5.
    pub controls: u8,
    /// The ranges Services of type LoadBalancer get their addresses from, separated by commas.
    pub vip_pool: String,
}

/// The IPv4 range of virtual addresses that the router sends to the nodes.
pub const VIP_POOL: &str = "198.18.100.0/24";
/// The IPv6 range of such addresses.
pub const VIP_POOL_V6: &str = "2001:db8:100::/120";

/// The ranges of pods and of ClusterIPs, as the control plane is given them.
pub(super) const CLUSTER_RANGES: &str = "10.244.0.0/16,2001:db8:a::/48";
pub(super) const SERVICE_RANGES: &str = "10.96.0.0/16,2001:db8:b::/112";

/// The longest name of a cluster: with the longest host name and its prefixes it must fit into
/// the path of a unix socket, which has 107 bytes.
const NAME_LENGTH_MAX: usize = 20;

impl Spec {
    /// A cluster of one control host and three nodes.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            nodes: 3,
            controls: 1,
            vip_pool: format!("{VIP_POOL},{VIP_POOL_V6}"),
        }
    }

    /// With another number of nodes.
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    /// With another number of control hosts.
    pub fn controls(mut self, controls: u8) -> Self {
        self.controls = controls;
        self
    }

    /// With a smaller pool, inside [`VIP_POOL`] or [`VIP_POOL_V6`].
    pub fn vip_pool(mut self, pool: &str) -> Self {
        pool.clone_into(&mut self.vip_pool);
        self
    }

    /// Checks every field.
    ///
    /// # Errors
    /// One is out of range; the error names it.
    pub fn validate(&self) -> Result<()> {
        validate_name(&self.name)?;
        ensure!(
            (1..=99).contains(&self.nodes),
            "a cluster has 1 to 99 nodes, not {}",
            self.nodes
        );
        ensure!(
            [1, 3, 5].contains(&self.controls),
            "a cluster has 1, 3 or 5 control hosts, not {}",
            self.controls
        );
        Ok(())
    }

    /// All hosts, the switch first.
    pub fn hosts(&self) -> Vec<Host> {
        let mut hosts = vec![Host::Switch, Host::Router, Host::Client];
        hosts.extend(self.control_hosts());
        hosts.extend(self.node_hosts());
        hosts
    }

    /// The hosts of the control plane.
    pub fn control_hosts(&self) -> impl Iterator<Item = Host> + use<> {
        (1..=self.controls).map(Host::Control)
    }

    /// The hosts that run pods.
    pub fn node_hosts(&self) -> impl Iterator<Item = Host> + use<> {
        (1..=self.nodes).map(Host::Node)
    }
}

/// Checks a cluster's name, which becomes part of names of namespaces, folders and cgroups.
///
/// # Errors
/// The name is not one.
pub fn validate_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        (1..=NAME_LENGTH_MAX).contains(&name.len())
            && name.chars().all(plain)
            && !name.starts_with('-')
            && !name.ends_with('-'),
        "{name:?} is no name for a cluster: 1 to {NAME_LENGTH_MAX} lower-case letters, digits and \
         inner dashes"
    );
    ensure!(
        name != "kubeconfig" && name != "failed",
        "{name:?} is taken: choose another name for the cluster"
    );
    Ok(())
}

/// One host of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// What all but the client are plugged into.
    Switch,
    /// Between the cluster's segment and the client's.
    Router,
    /// Beyond the router, outside the cluster.
    Client,
    /// A host of the control plane, from 1.
    Control(u8),
    /// A host that runs pods, from 1.
    Node(u8),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch => f.write_str("switch"),
            Self::Router => f.write_str("router"),
            Self::Client => f.write_str("client"),
            Self::Control(number) => write!(f, "control-{number}"),
            Self::Node(number) => write!(f, "node-{number}"),
        }
    }
}

impl FromStr for Host {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |digits: &str| digits.parse().ok().filter(|number| *number > 0);
        let host = match text {
            "switch" => Some(Self::Switch),
            "router" => Some(Self::Router),
            "client" => Some(Self::Client),
            _ => match text.split_once('-') {
                Some(("control", digits)) => number(digits).map(Self::Control),
                Some(("node", digits)) => number(digits).map(Self::Node),
                _ => None,
            },
        };
        match host {
            // A number is written one way only, so that a name and its host are the same thing.
            Some(host) if host.to_string() == text => Ok(host),
            _ => {
                bail!("{text:?} is no host: hosts are client, router, switch, control-1…, node-1…")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sizes_that_make_a_cluster_are_accepted() {
        for (name, nodes, controls, valid) in [
            ("default", 3, 1, true),
            ("a", 99, 5, true),
            ("a-1", 1, 3, true),
            ("", 3, 1, false),
            ("-a", 3, 1, false),
            ("A", 3, 1, false),
            ("a/b", 3, 1, false),
            ("kubeconfig", 3, 1, false),
            ("twenty-one-characters", 3, 1, false),
            ("default", 0, 1, false),
            ("default", 100, 1, false),
            ("default", 3, 2, false),
        ] {
            let spec = Spec::named(name).nodes(nodes).controls(controls);
            assert_eq!(spec.validate().is_ok(), valid, "{spec:?}");
        }
    }

    #[test]
    fn a_host_is_read_from_its_own_name_and_from_no_other() {
        for host in Spec::named("a").controls(3).hosts() {
            assert_eq!(host.to_string().parse::<Host>().expect("its name"), host);
        }
        for name in [
            "", "node", "node-0", "node-01", "node-+1", "node-x", "b-node-1", "Client",
        ] {
            assert!(name.parse::<Host>().is_err(), "{name:?}");
        }
    }
}
