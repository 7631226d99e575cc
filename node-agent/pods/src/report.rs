//! What this crate tells the agent, and what it asks of the agent's network.

use std::net::IpAddr;
use std::path::Path;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::PodStatus;

/// News about a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// The pod's status has changed.
    Status {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
        /// The pod's uid.
        uid: String,
        /// All of it.
        status: Box<PodStatus>,
    },
    /// Nothing of the pod is left on the node. Repeated as long as the pod stays assigned.
    Gone {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
        /// The pod's uid.
        uid: String,
    },
    /// Something worth an Event.
    Event(Event),
}

/// What an Event about a pod says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// `Normal` or `Warning`.
    pub event_type: &'static str,
    /// One word: `Started`, `BackOff` …
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// How pods find the cluster's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDns {
    /// The domain they end with: `cluster.local`.
    pub domain: String,
    /// Who answers, one address a family, the primary family's first.
    pub nameservers: Vec<IpAddr>,
}

/// Why a pod has no network.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NetworkError(pub String);

/// Gives pods their network namespace, addresses and names. The first two calls are idempotent.
#[async_trait]
pub trait PodNetwork: Send + Sync {
    /// Makes the network namespace at `netns` (a bind mount) if it is absent, connects it, and
    /// returns the pod's addresses, one a family, the primary family's first: the same each time.
    async fn attach(&self, uid: &str, netns: &Path) -> Result<Vec<IpAddr>, NetworkError>;

    /// Disconnects the pod and removes the namespace.
    async fn detach(&self, uid: &str, netns: &Path) -> Result<(), NetworkError>;

    /// Whom pods ask for the cluster's names; `None` while nobody has said.
    fn dns(&self) -> Option<ClusterDns>;
}
