//! The certificates of a member: made from the cluster's two authorities, one for users, agents
//! and the servers they speak to, one for members among themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::SystemTime;

use fairlead_api::cluster_dns;
use fairlead_apiserver::FRONT_PROXY_USER;
use fairlead_client::Kubeconfig;
use fairlead_config::{read, write_private};
use fairlead_pki::{Authority, CONTROL_SERVER_NAME, Leaf, Subject, Usage, Validity};

use crate::config::{Config, Layout};

/// What this member shows users and agents.
const API: &str = "api";
/// What it shows other members.
const PEER: &str = "peer";
const OWN: [&str; 2] = [API, PEER];

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
        for own in OWN {
            self.write_own(own, layout, config)?;
        }
        Ok(())
    }

    /// Makes those of this member's own certificates, and of the administrator's kubeconfig, anew of
    /// whose time less than a third is left.
    pub(crate) fn renew(&self, layout: &Layout, config: &Config) -> anyhow::Result<()> {
        for own in OWN {
            if is_due(&read(&layout.certificate(own))?) {
                self.write_own(own, layout, config)?;
                tracing::info!(certificate = own, "renewed");
            }
        }
        let path = layout.admin_kubeconfig();
        // It may have been given away.
        if path.exists() {
            let present = Kubeconfig::load(&path)?;
            if is_due(&present.user.certificate_pem) {
                self.write_admin(&path, &present.server)?;
                tracing::info!(file = %path.display(), "renewed");
            }
        }
        Ok(())
    }

    /// Writes the kubeconfig of the user who may do everything.
    pub(crate) fn write_admin(&self, path: &Path, server: &str) -> anyhow::Result<()> {
        let kubeconfig = Kubeconfig {
            server: server.to_owned(),
            authority_pem: self.cluster.certificate_pem().to_owned(),
            user: self.admin()?,
        };
        let text = kubeconfig.render("fairlead", "kubernetes-admin");
        Ok(write_private(path, &text)?)
    }

    fn write_own(&self, own: &str, layout: &Layout, config: &Config) -> anyhow::Result<()> {
        let names = server_names(config);
        let subject = Subject {
            common_name: config.member.name.as_str(),
            organization: None,
            names: &names,
        };
        let leaf = if own == API {
            self.cluster.issue(&subject, Usage::Server)?
        } else {
            self.peers.issue(&subject, Usage::Peer)?
        };
        // The certificate last: where only the key was written, the old one is due again.
        write_private(&layout.key(own), &leaf.key_pem)?;
        Ok(write_private(
            &layout.certificate(own),
            &leaf.certificate_pem,
        )?)
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

    fn admin(&self) -> anyhow::Result<Leaf> {
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

fn is_due(certificate_pem: &str) -> bool {
    Validity::of_pem(certificate_pem)
        .is_none_or(|validity| validity.renewal_in(SystemTime::now()).is_zero())
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
        &format!("kubernetes.default.svc.{}", cluster_dns::DOMAIN),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CONFIG: &str = r#"
        [cluster]
        id = "test"
        cluster_cidr = "10.244.0.0/16"
        service_cidr = "10.96.0.0/16"
        vip_pools = []
        hash_seed = "00112233445566778899aabbccddeeff"
        [member]
        name = "a"
        id = 1
        advertise = "192.0.2.11"
    "#;

    #[test]
    fn certificates_that_are_soon_over_are_made_anew_and_others_kept() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        layout.create().unwrap();
        std::fs::write(layout.config(), CONFIG).unwrap();
        let config = layout.load_config().unwrap();
        let made = Authorities::generate().unwrap();
        let minute = Duration::from_secs(60);
        let short = Authorities {
            cluster: made.cluster.with_leaf_lifetime(minute),
            peers: made.peers,
        };
        short.write(&layout, &config).unwrap();
        let admin = layout.admin_kubeconfig();
        short
            .write_admin(&admin, "https://192.0.2.11:6443")
            .unwrap();
        let all = || {
            let files = [
                layout.certificate(API),
                layout.certificate(PEER),
                admin.clone(),
            ];
            files.map(|file| read(&file).unwrap())
        };

        let before = all();
        let authorities = Authorities::load(&layout).unwrap();
        authorities.renew(&layout, &config).unwrap();
        let after = all();
        let is_new = [0, 1, 2].map(|file| before[file] != after[file]);
        assert_eq!(is_new, [true, false, true]);
        let renewed = Kubeconfig::load(&admin).unwrap();
        assert_eq!(renewed.server, "https://192.0.2.11:6443");
        assert!(!is_due(&after[0]) && !is_due(&renewed.user.certificate_pem));
        // What is written goes together.
        fairlead_pki::install_crypto_provider();
        let own = load_leaf(&layout, API).unwrap();
        fairlead_pki::client_config(Some(&own), authorities.cluster.certificate_pem()).unwrap();

        authorities.renew(&layout, &config).unwrap();
        assert_eq!(all(), after);
    }
}
