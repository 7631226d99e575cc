//! The certificates of a member: made from the cluster's two authorities, one for users, agents
//! and the servers they speak to, one for members among themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_apiserver::FRONT_PROXY_USER;
use fairlead_config::{read, write_private};
use fairlead_pki::{Authority, CONTROL_SERVER_NAME, Leaf, Subject, Usage};

use crate::config::{Config, Layout};

/// Both authorities.
pub(crate) struct Authorities {
    /// Signs users, agents, and the API's and node gRPC's servers.
    pub(crate) cluster: Authority,
    /// Signs members, for the peer port alone.
    pub(crate) peers: Authority,
}

impl Authorities {
    pub(crate) fn generate() -> anyhow::Result<Self> {
        Ok(Self {
            cluster: Authority::generate("fairlead-ca")?,
            peers: Authority::generate("fairlead-peer-ca")?,
        })
    }

    pub(crate) fn load(layout: &Layout) -> anyhow::Result<Self> {
        let load = |name| -> anyhow::Result<Authority> {
            Ok(Authority::load(
                &read(&layout.certificate(name))?,
                &read(&layout.key(name))?,
            )?)
        };
        Ok(Self {
            cluster: load("ca")?,
            peers: load("peer-ca")?,
        })
    }

    /// Writes both authorities and this member's own certificates.
    pub(crate) fn write(&self, layout: &Layout, config: &Config) -> anyhow::Result<()> {
        for (name, authority) in [("ca", &self.cluster), ("peer-ca", &self.peers)] {
            write_private(&layout.certificate(name), authority.certificate_pem())?;
            write_private(&layout.key(name), authority.key_pem())?;
        }
        let names = server_names(config);
        let common_name = config.member.name.as_str();
        let subject = Subject {
            common_name,
            organization: None,
            names: &names,
        };
        write_leaf(layout, "api", &self.cluster.issue(&subject, Usage::Server)?)?;
        write_leaf(layout, "peer", &self.peers.issue(&subject, Usage::Peer)?)
    }

    /// What this member shows the leader's API server when it passes a user's request on.
    pub(crate) fn front_proxy(&self) -> anyhow::Result<Leaf> {
        let subject = Subject {
            common_name: FRONT_PROXY_USER,
            organization: None,
            names: &[],
        };
        Ok(self.cluster.issue(&subject, Usage::Client)?)
    }

    /// The user who may do everything.
    pub(crate) fn admin(&self) -> anyhow::Result<Leaf> {
        let subject = Subject {
            common_name: "kubernetes-admin",
            organization: Some("system:masters"),
            names: &[],
        };
        Ok(self.cluster.issue(&subject, Usage::Client)?)
    }
}

/// A certificate that [`Authorities::write`] wrote.
pub(crate) fn load_leaf(layout: &Layout, name: &str) -> anyhow::Result<Leaf> {
    Ok(Leaf {
        certificate_pem: read(&layout.certificate(name))?,
        key_pem: read(&layout.key(name))?,
    })
}

fn write_leaf(layout: &Layout, name: &str, leaf: &Leaf) -> anyhow::Result<()> {
    write_private(&layout.certificate(name), &leaf.certificate_pem)?;
    Ok(write_private(&layout.key(name), &leaf.key_pem)?)
}

/// Everything a client may call this member by: the names of Service `kubernetes` in the cluster,
/// its own address, and loopback for whoever forwards a port.
fn server_names(config: &Config) -> Vec<String> {
    let mut names: Vec<String> = [
        CONTROL_SERVER_NAME,
        &config.member.name,
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned)
    .into();
    let addresses = [
        Some(config.member.advertise),
        Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        config.cluster.kubernetes_service_ip(),
    ];
    names.extend(
        addresses
            .into_iter()
            .flatten()
            .map(|address| address.to_string()),
    );
    names
}
