//! What a member knows before it has spoken to anybody: `control.toml` and the files beside it.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use fairlead_api::FamilyRanges;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The REST API (kubectl).
pub(crate) const API_PORT: u16 = 6443;
/// gRPC of the agents.
pub(crate) const NODE_PORT: u16 = 6444;
/// gRPC of the other members.
pub(crate) const PEER_PORT: u16 = 6445;

/// `control.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) cluster: Cluster,
    pub(crate) member: Member,
}

/// The same on every member; fixed when the cluster is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    /// Random; members of another cluster are refused by it.
    pub(crate) id: String,
    /// All pods' addresses.
    pub(crate) cluster_cidr: FamilyRanges,
    /// ClusterIPs, of the same families in the same order.
    pub(crate) service_cidr: FamilyRanges,
    /// Addresses for Services of type LoadBalancer.
    pub(crate) vip_pools: Vec<IpNetwork>,
    /// Keys the dataplane's flow hash: 32 hexadecimal digits.
    pub(crate) hash_seed: String,
}

/// This member's own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Random, never reused: a member that lost its data joins under a fresh one.
    pub(crate) id: u64,
    pub(crate) advertise: IpAddr,
    /// The member to join the cluster through; none on the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) join_through: Option<String>,
}

impl Cluster {
    /// The seed's 16 bytes.
    pub(crate) fn hash_seed_bytes(&self) -> anyhow::Result<Vec<u8>> {
        let digits = &self.hash_seed;
        if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            bail!("cluster.hash_seed must be 32 hexadecimal digits");
        }
        (0..16)
            .map(|index| u8::from_str_radix(&digits[2 * index..2 * index + 2], 16))
            .collect::<Result<_, _>>()
            .context("cluster.hash_seed")
    }

    /// The address of Service `kubernetes`: the first of the primary family's range.
    pub(crate) fn kubernetes_service_ip(&self) -> Option<IpAddr> {
        self.service_cidr.first().iter().nth(1)
    }
}

impl Member {
    /// Where this member listens for `port`.
    pub(crate) fn listen(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.advertise, port)
    }

    /// How other members reach this one.
    pub(crate) fn peer_endpoint(&self) -> String {
        format!("https://{}", self.listen(PEER_PORT))
    }
}

/// The address of a member, which all its ports are on.
pub(crate) fn peer_ip(member: &fairlead_store::Member) -> Option<IpAddr> {
    let peer: SocketAddr = member.endpoint.strip_prefix("https://")?.parse().ok()?;
    Some(peer.ip())
}

/// Where things lie below a member's data directory.
pub(crate) struct Layout(PathBuf);

impl Layout {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self(data_dir.to_owned())
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("control.toml")
    }

    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.0.join("admin.kubeconfig")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// A certificate or key: `ca`, `peer-ca`, `api`, `peer`.
    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.0.join("pki").join(format!("{name}.pem"))
    }

    /// The key that belongs to it.
    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.0.join("pki").join(format!("{name}.key"))
    }

    /// Makes the directory, readable by its owner alone, and refuses one that is in use.
    pub(crate) fn create(&self) -> anyhow::Result<()> {
        let config = self.config();
        if config.exists() {
            bail!(
                "{} exists: this host is a member already (to start over, remove {})",
                config.display(),
                self.0.display()
            );
        }
        Ok(fairlead_config::create_private(&[
            self.0.clone(),
            self.0.join("pki"),
        ])?)
    }

    pub(crate) fn load_config(&self) -> anyhow::Result<Config> {
        let path = self.config();
        fairlead_config::load(&path)?.with_context(|| {
            format!(
                "{} does not exist: run `fairlead-control init` or `fairlead-control join` first",
                path.display()
            )
        })
    }

    /// Written last by init and join: a directory with a configuration is complete.
    pub(crate) fn save_config(&self, config: &Config) -> anyhow::Result<()> {
        Ok(fairlead_config::save(&self.config(), config)?)
    }
}
