//! `fairlead-agent join`.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};
use fairlead_api::NodeName;
use fairlead_config::write_private;
use fairlead_pki::JoinToken;

use crate::{
    Join,
    config::{Config, Flows, Layout},
};

pub(crate) async fn join(join: Join) -> anyhow::Result<()> {
    let layout = Layout::new(&join.data_dir.data_dir);
    let token: JoinToken = join.token.parse().context("--token")?;
    if let Some(problem) = fairlead_api::names::dns_1123_subdomain(&join.node_name) {
        bail!("--node-name {:?}: {problem}", join.node_name);
    }
    let (address, other_address) = addresses(&join.addresses)?;
    layout.create()?;
    let common_name = format!("system:node:{}", join.node_name);
    let (csr_pem, key_pem) = fairlead_pki::certificate_request(&common_name)?;
    let response = fairlead_client::join(&join.server, &token, &join.node_name, &csr_pem).await?;
    if response.certificate_pem.is_empty() {
        bail!("the token is for a member of the control plane: make one of the role node");
    }
    write_private(&layout.key(), &key_pem)?;
    write_private(&layout.certificate(), &response.certificate_pem)?;
    write_private(&layout.authority(), &response.ca_pem)?;
    let config = Config {
        node_name: NodeName::new(join.node_name),
        address,
        other_address,
        uplinks: join.uplinks,
        control_endpoints: endpoints(&join.server, &response.control_endpoints),
        bpffs: join.bpffs,
        cgroup: join.cgroup,
        cgroup_prefix: join.cgroup_prefix,
        run_dir: join.run_dir,
        log_dir: join.log_dir,
        resolv_conf: join.resolv_conf,
        dns_upstreams: Vec::new(),
        flows: Flows::default(),
    };
    layout.save_config(&config)?;
    eprintln!(
        "This host is node {} of the cluster. Start its agent:\n    fairlead-agent run --data-dir {}",
        config.node_name,
        layout.root().display(),
    );
    Ok(())
}

/// The address a node is reached at first, and that of the other family.
fn addresses(given: &[IpAddr]) -> anyhow::Result<(IpAddr, Option<IpAddr>)> {
    match *given {
        [only] => Ok((only, None)),
        [first, other] if first.is_ipv4() != other.is_ipv4() => Ok((first, Some(other))),
        _ => {
            let given: Vec<_> = given.iter().map(ToString::to_string).collect();
            bail!(
                "--address {}: give one address, or one of each family",
                given.join(",")
            )
        }
    }
}

/// The members that were named, then those that the cluster told of.
fn endpoints(named: &[SocketAddr], told: &[String]) -> Vec<SocketAddr> {
    let mut endpoints = named.to_vec();
    for endpoint in told.iter().filter_map(|endpoint| endpoint.parse().ok()) {
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    endpoints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_has_one_address_or_one_of_each_family() {
        let of = |texts: &[&str]| {
            let given: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
            addresses(&given).map_err(|error| error.to_string())
        };
        let (v4, v6) = ("192.0.2.1", "2001:db8::1");
        assert_eq!(of(&[v6]), Ok((v6.parse().unwrap(), None)));
        let both = (v6.parse().unwrap(), Some(v4.parse().unwrap()));
        assert_eq!(of(&[v6, v4]), Ok(both));
        for wrong in [&[v4, "192.0.2.2"][..], &[v4, v6, "2001:db8::2"]] {
            let error = of(wrong).unwrap_err();
            assert!(error.contains("one of each family"), "{error}");
        }
    }

    #[test]
    fn endpoints_are_kept_once_and_the_named_come_first() {
        let named = ["198.18.0.12:6444".parse().unwrap()];
        let told = [
            "198.18.0.11:6444".to_owned(),
            "198.18.0.12:6444".into(),
            "nonsense".into(),
        ];
        let text: Vec<_> = endpoints(&named, &told)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(text, ["198.18.0.12:6444", "198.18.0.11:6444"]);
    }
}
