//! `fairlead-agent cleanup`: the node as it was before the agent first ran, but for its
//! configuration and images.

use std::{net::IpAddr, path::Path};

use anyhow::Context;
use async_trait::async_trait;
use fairlead_dataplane::Dataplane;
use fairlead_dns::Keeper;
use fairlead_pods::{ClusterDns, NetworkError, PodNetwork, Pods};

use crate::config::Layout;

pub(crate) async fn cleanup(data_dir: &Path) -> anyhow::Result<()> {
    let layout = Layout::new(data_dir);
    let config = layout.load_config()?;
    let dataplane = config.dataplane(&layout);
    Pods::destroy(&config.pods(&layout), &NoNetwork)
        .await
        .context("cannot remove the pods")?;
    Keeper::stop(&config.dns(&layout).socket)
        .await
        .context("cannot stop the DNS")?;
    Dataplane::destroy(&dataplane)
        .await
        .context("cannot remove the dataplane")?;
    eprintln!(
        "The node is clean: no pod, program, map, namespace, mount or cgroup of ours is left."
    );
    Ok(())
}

/// The dataplane removes all networks at once, after the pods.
struct NoNetwork;

#[async_trait]
impl PodNetwork for NoNetwork {
    async fn attach(&self, _uid: &str, _netns: &Path) -> Result<Vec<IpAddr>, NetworkError> {
        Err(NetworkError("the node is being cleaned".to_owned()))
    }

    async fn detach(&self, _uid: &str, _netns: &Path) -> Result<(), NetworkError> {
        Ok(())
    }

    fn dns(&self) -> Option<ClusterDns> {
        None
    }
}
