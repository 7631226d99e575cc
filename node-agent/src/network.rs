//! The pods' network is the dataplane: the one place where the two rooms meet.

use std::{net::IpAddr, path::Path, sync::Arc};

use async_trait::async_trait;
use fairlead_dataplane::Dataplane;
use fairlead_pods::{NetworkError, PodNetwork};

/// Gives pods their namespaces and addresses through the dataplane.
pub(crate) struct DataplaneNetwork(pub(crate) Arc<Dataplane>);

#[async_trait]
impl PodNetwork for DataplaneNetwork {
    async fn attach(&self, uid: &str, netns: &Path) -> Result<Vec<IpAddr>, NetworkError> {
        self.0
            .attach_pod(uid, netns)
            .await
            .map_err(|error| NetworkError(fairlead_api::error_chain(&error)))
    }

    async fn detach(&self, uid: &str, netns: &Path) -> Result<(), NetworkError> {
        self.0
            .detach_pod(uid, netns)
            .await
            .map_err(|error| NetworkError(fairlead_api::error_chain(&error)))
    }
}
