//! Controllers and scheduler: what brings the cluster closer to what its objects ask for.
//!
//! Each is a pure plan over a snapshot of the cluster and a thin part that carries the plan out
//! through the store. They run where the store's leader is, from one in-process cache, and stop
//! when it moves.
//!
//! Refuses to know: HTTP, nodes' connections, the dataplane.

#![forbid(unsafe_code)]

mod bootstrap;
mod controller;
mod deployment;
mod endpoints;
mod event_expiry;
mod garbage;
mod load_balancer;
mod namespace;
mod node_lifecycle;
mod pod_cidr;
mod pod_garbage;
mod pod_state;
mod queue;
mod replica_set;
mod scheduler;
mod term;

use std::time::Duration;

use fairlead_api::FamilyRanges;
use fairlead_store::Store;
use ipnetwork::IpNetwork;
use tracing::{info, warn};

/// How long controllers stay down when one of them ended that never should.
const RESTART_WAIT: Duration = Duration::from_secs(1);

/// What the operator decided about the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The range of all pod addresses. Each node gets a part of [`node_prefix`] bits.
    pub cluster_cidr: FamilyRanges,
    /// The range of cluster IPs; its first address is the service `kubernetes`.
    pub service_cidr: FamilyRanges,
    /// Where load balancer services get their addresses from.
    pub vip_pools: Vec<IpNetwork>,
    /// The port each member serves the API on.
    pub api_port: u16,
    /// How old a node's lease may become before the node counts as unreachable.
    pub node_grace: Duration,
    /// How long an event is kept after it was told last.
    pub event_lifetime: Duration,
    /// How many ended pods are kept for people to look at.
    pub ended_pods_max: usize,
}

impl Config {
    /// Upstream's figures with these ranges.
    pub fn new(
        cluster_cidr: FamilyRanges,
        service_cidr: FamilyRanges,
        vip_pools: Vec<IpNetwork>,
    ) -> Self {
        Self {
            cluster_cidr,
            service_cidr,
            vip_pools,
            api_port: 6443,
            node_grace: Duration::from_secs(40),
            event_lifetime: Duration::from_secs(3600),
            ended_pods_max: 12_500,
        }
    }
}

/// The length of the part of `range` that each node gets for its pods: 254 addresses of IPv4; of
/// IPv6 the subnet everybody expects (RFC 4291 §2.5.1).
pub fn node_prefix(range: IpNetwork) -> u8 {
    if range.is_ipv4() { 24 } else { 64 }
}

/// Runs all controllers and the scheduler whenever this member leads, until `shutdown`. Loss of
/// the lead stops them at once, wherever they are: each of their writes stands alone.
pub async fn run(store: Store, config: Config, shutdown: impl Future<Output = ()>) {
    let mut leadership = store.leadership();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            led = leadership.wait_for(|now| now.is_leader) => if led.is_err() { return },
        }
        info!("leading: controllers start");
        let lost = async {
            // An error means the store is gone, which ends the lead as well.
            let _ = leadership.wait_for(|now| !now.is_leader).await;
        };
        tokio::select! {
            () = &mut shutdown => return,
            () = lost => warn!("no longer leading: controllers stopped"),
            () = term::run(store.clone(), config.clone()) => {
                tokio::time::sleep(RESTART_WAIT).await;
            }
        }
    }
}
