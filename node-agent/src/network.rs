//! The pods' network is the dataplane and the DNS: the one place where the rooms meet.

use std::{net::IpAddr, path::Path, sync::Arc};

use async_trait::async_trait;
use fairlead_dataplane::Dataplane;
use fairlead_dns::Keeper;
use fairlead_pods::{ClusterDns, NetworkError, PodNetwork};

/// Gives pods their namespaces and addresses through the dataplane, and names through the DNS.
pub(crate) struct DataplaneNetwork {
    pub(crate) dataplane: Arc<Dataplane>,
    pub(crate) dns: Arc<Keeper>,
}

#[async_trait]
impl PodNetwork for DataplaneNetwork {
    async fn attach(&self, uid: &str, netns: &Path) -> Result<Vec<IpAddr>, NetworkError> {
        self.dataplane
            .attach_pod(uid, netns)
            .await
            .map_err(|error| NetworkError(fairlead_api::error_chain(&error)))
    }

    async fn detach(&self, uid: &str, netns: &Path) -> Result<(), NetworkError> {
        self.dataplane
            .detach_pod(uid, netns)
            .await
            .map_err(|error| NetworkError(fairlead_api::error_chain(&error)))
    }

    fn dns(&self) -> Option<ClusterDns> {
        let cluster = self.dns.cluster()?;
        Some(ClusterDns {
            domain: cluster.domain,
            nameservers: cluster.addresses,
        })
    }
}
