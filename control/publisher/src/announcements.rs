//! Which node answers for each VIP on its segment: one at a time, the same for as long as it
//! lives.
//!
//! A VIP's holder is kept as a Lease in `kube-system`, so that it survives the leader and people
//! see it (`kubectl -n kube-system get leases`); who changes the holder there moves the VIP. What
//! nodes are told is compiled from these Leases and from nothing else.

mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fairlead_api::{
    Revision,
    balancing::{Balancing, LOAD_BALANCER_CLASS},
    resource,
};
use fairlead_objects::{
    About, Cache, EventType, Grace, Object, ObjectName, Recorder, WriteError, Writer,
};
use fairlead_proto::node::{self, BackendState};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, Service},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use tracing::{info, warn};

use self::plan::plan;
pub(crate) use self::plan::{Move, Vip};
use crate::liveness::Standing;

const NAMESPACE: &str = "kube-system";
/// Marks the Leases that are about VIPs.
const LABEL: &str = "net.fairlead.io/announcement";
const ADDRESS: &str = "net.fairlead.io/address";
const SERVICE: &str = "net.fairlead.io/service";
/// Upstream's way to keep load balancers away from a node.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// How many Leases are written at a time; the store gathers them into few commits.
const WRITES_MAX: usize = 32;

/// The VIPs of a Service that nodes answer for: what the pools gave it, and its external addresses
/// if it asks for that. `ports` are what the Service was compiled to.
pub(crate) fn vips<'a>(
    service: &Service,
    ports: impl Iterator<Item = &'a node::Service> + Clone,
) -> Vec<(IpAddr, Vip)> {
    addresses(service)
        .into_iter()
        .map(|address| {
            // A node without a backend of its own would drop what it attracts.
            let of_family = ports.clone().filter(|port| is_at(port, address));
            let is_local = of_family.clone().any(|port| port.external_local);
            let nodes = of_family
                .flat_map(|port| &port.backends)
                .filter(|backend| backend.state() == BackendState::Active)
                .map(|backend| backend.node.clone())
                .filter(|node| !node.is_empty());
            let vip = Vip {
                service: service.object_name(),
                only_on: is_local.then(|| nodes.collect()),
            };
            (address, vip)
        })
        .collect()
}

fn is_at(port: &node::Service, address: IpAddr) -> bool {
    let octets = crate::compile::octets(address);
    port.frontends
        .iter()
        .any(|frontend| frontend.address == octets)
}

fn addresses(service: &Service) -> BTreeSet<IpAddr> {
    let Some(spec) = &service.spec else {
        return BTreeSet::new();
    };
    let mut addresses = BTreeSet::new();
    let is_ours = spec
        .load_balancer_class
        .as_deref()
        .is_none_or(|class| class == LOAD_BALANCER_CLASS);
    if spec.type_.as_deref() == Some("LoadBalancer") && is_ours {
        let status = service.status.as_ref();
        let balancer = status.and_then(|status| status.load_balancer.as_ref());
        let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref());
        let points = ingress.unwrap_or_default().iter();
        addresses.extend(points.filter_map(|point| point.ip.as_ref()?.parse::<IpAddr>().ok()));
    }
    let (asked, _) = Balancing::of_service(service.metadata.annotations.as_ref());
    if asked.announces_external_ips && spec.type_.as_deref() != Some("ExternalName") {
        let external = spec.external_ips.iter().flatten();
        addresses.extend(external.filter_map(|address| address.parse::<IpAddr>().ok()));
    }
    addresses
}

/// Whether a node may answer for VIPs at all.
pub(crate) fn may_announce(node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    !node.is_terminating() && !labels.is_some_and(|labels| labels.contains_key(EXCLUDED))
}

/// The holder of each VIP, as the Leases say.
pub(crate) fn holders(cache: &Cache) -> BTreeMap<IpAddr, String> {
    cache
        .leases
        .in_namespace(NAMESPACE)
        .filter_map(|lease| holder(lease))
        .collect()
}

/// Whether a Lease is about a VIP.
pub(crate) fn is_announcement(lease: &Lease) -> bool {
    let labels = lease.metadata.labels.as_ref();
    lease.metadata.namespace.as_deref() == Some(NAMESPACE)
        && labels.is_some_and(|labels| labels.contains_key(LABEL))
}

fn holder(lease: &Lease) -> Option<(IpAddr, String)> {
    if !is_announcement(lease) {
        return None;
    }
    let address = lease.metadata.annotations.as_ref()?.get(ADDRESS)?;
    let holder = lease.spec.as_ref()?.holder_identity.clone()?;
    Some((address.parse().ok()?, holder))
}

/// What nodes are told: the holders of VIPs that exist, as long as the holders do.
pub(crate) fn announcements(
    cache: &Cache,
    vips: &BTreeMap<IpAddr, Vip>,
) -> BTreeMap<bytes::Bytes, node::Announcement> {
    holders(cache)
        .into_iter()
        .filter(|(address, node)| {
            vips.contains_key(address) && cache.nodes.get(&ObjectName::cluster(node)).is_some()
        })
        .map(|(address, node)| {
            let address = crate::compile::octets(address);
            (address.clone(), node::Announcement { address, node })
        })
        .collect()
}

/// Writes who holds what.
pub(crate) struct Announcer {
    writer: Writer,
    recorder: Recorder,
}

impl Announcer {
    pub(crate) fn new(writer: Writer, recorder: &Recorder) -> Self {
        Self {
            writer,
            recorder: recorder.speaking_as("address-announcer", None),
        }
    }

    /// Moves what has to move. Returns the newest write, and whether any failed and is to be tried
    /// again.
    pub(crate) async fn reconcile(
        &self,
        cache: &Cache,
        vips: &BTreeMap<IpAddr, Vip>,
        nodes: &BTreeMap<String, Standing>,
    ) -> (Option<Revision>, bool) {
        let moves = plan(vips, nodes, &holders(cache));
        let (mut newest, mut has_failed) = (None, false);
        for moves in moves.chunks(WRITES_MAX) {
            let written = join_all(moves.iter().map(|one| self.write(one, vips))).await;
            for (one, written) in moves.iter().zip(written) {
                match written {
                    Ok(revision) => {
                        newest = newest.max(revision);
                        self.tell(cache, vips, one).await;
                    }
                    Err(cause) => {
                        has_failed = true;
                        warn!(
                            address = %one.address,
                            error = &cause as &dyn std::error::Error,
                            "announcement not moved; trying again"
                        );
                    }
                }
            }
        }
        (newest, has_failed)
    }

    async fn write(
        &self,
        one: &Move,
        vips: &BTreeMap<IpAddr, Vip>,
    ) -> Result<Option<Revision>, WriteError> {
        let name = ObjectName::new(NAMESPACE, lease_name(one.address));
        let Some(holder) = &one.to else {
            let deleted = self
                .writer
                .delete(&resource::LEASE, &name, None, Grace::Immediate)
                .await;
            return match deleted {
                Err(WriteError::Missing(_)) => Ok(None),
                other => other,
            };
        };
        let now = MicroTime(Timestamp::now());
        let moved = |lease: &mut Lease| {
            // Somebody else's object of that name becomes ours.
            let fresh = lease_of(one.address, vips, holder, &now);
            let metadata = &mut lease.metadata;
            metadata
                .labels
                .get_or_insert_default()
                .extend(fresh.metadata.labels.unwrap_or_default());
            metadata
                .annotations
                .get_or_insert_default()
                .extend(fresh.metadata.annotations.unwrap_or_default());
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_ref() != Some(holder) {
                spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
            }
            spec.holder_identity = Some(holder.clone());
            spec.acquire_time = Some(now.clone());
            spec.renew_time = Some(now.clone());
        };
        match self.writer.update::<Lease>(&name, None, moved).await {
            Err(WriteError::Missing(_)) => {
                let lease = lease_of(one.address, vips, holder, &now);
                let created = self.writer.create(lease).await?;
                Ok(Some(created.revision))
            }
            other => other,
        }
    }

    async fn tell(&self, cache: &Cache, vips: &BTreeMap<IpAddr, Vip>, one: &Move) {
        let Move {
            address, from, to, ..
        } = one;
        info!(%address, from, to, "announcement moved");
        let service = vips
            .get(address)
            .and_then(|vip| cache.services.get(&vip.service));
        let (Some(service), Some(to)) = (service, to) else {
            return;
        };
        let (reason, message) = match from {
            None => ("AddressAnnounced", format!("{to} answers for {address}")),
            Some(from) => (
                "AddressMoved",
                format!("{to} answers for {address} instead of {from}, {}", one.why),
            ),
        };
        self.recorder
            .record(
                &About::object(&**service),
                EventType::Normal,
                reason,
                message,
            )
            .await;
    }
}

/// `vip-198.18.100.1`, `vip-2001-db8--1`: a name that every address fits.
fn lease_name(address: IpAddr) -> String {
    let text = address.to_string().replace(':', "-");
    // A name must not end in a hyphen; `2001:db8::` is `2001:db8::0` as well.
    let end = if text.ends_with('-') { "0" } else { "" };
    format!("vip-{text}{end}")
}

fn lease_of(address: IpAddr, vips: &BTreeMap<IpAddr, Vip>, holder: &str, now: &MicroTime) -> Lease {
    let service = vips.get(&address).map(|vip| vip.service.to_string());
    let annotations = [
        Some((ADDRESS.to_owned(), address.to_string())),
        service.map(|service| (SERVICE.to_owned(), service)),
    ];
    Lease {
        metadata: ObjectMeta {
            name: Some(lease_name(address)),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some([(LABEL.to_owned(), String::new())].into()),
            annotations: Some(annotations.into_iter().flatten().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            acquire_time: Some(now.clone()),
            renew_time: Some(now.clone()),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(annotations: Value, spec: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "annotations": annotations},
            "spec": spec,
            "status": {"loadBalancer": {"ingress": [{"ip": "198.18.100.1"}]}},
        }))
        .unwrap()
    }

    #[test]
    fn addresses_of_the_pools_are_announced_and_external_ones_on_request() {
        let asks = json!({"net.fairlead.io/announce-external-ips": "true"});
        let external = json!({"type": "ClusterIP", "externalIPs": ["203.0.113.9"]});
        for (annotations, spec, expected) in [
            (
                json!({}),
                json!({"type": "LoadBalancer"}),
                vec!["198.18.100.1"],
            ),
            (
                json!({}),
                json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other"}),
                vec![],
            ),
            (json!({}), external.clone(), vec![]),
            (asks, external, vec!["203.0.113.9"]),
        ] {
            let addresses = addresses(&service(annotations, spec.clone()));
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            assert_eq!(addresses, expected, "{spec}");
        }
    }

    #[test]
    fn local_service_is_announced_where_it_has_ready_backends() {
        let backend = |node: &str, state: BackendState| node::Backend {
            node: node.to_owned(),
            state: state.into(),
            ..Default::default()
        };
        let mut port = node::Service {
            frontends: vec![node::Frontend {
                address: vec![198, 18, 100, 1].into(),
                ..Default::default()
            }],
            backends: vec![
                backend("n1", BackendState::Active),
                backend("n2", BackendState::Draining),
                backend("", BackendState::Active),
            ],
            ..Default::default()
        };
        let service = service(json!({}), json!({"type": "LoadBalancer"}));
        let only_on =
            |port: &node::Service| vips(&service, [port].into_iter())[0].1.only_on.clone();
        assert_eq!(only_on(&port), None);
        port.external_local = true;
        assert_eq!(only_on(&port), Some(["n1".to_owned()].into()));
    }

    #[test]
    fn every_address_has_a_lease_name() {
        for (address, expected) in [
            ("198.18.100.1", "vip-198.18.100.1"),
            ("2001:db8::1", "vip-2001-db8--1"),
            ("2001:db8::", "vip-2001-db8--0"),
        ] {
            let name = lease_name(address.parse().unwrap());
            assert_eq!(name, expected);
            assert_eq!(fairlead_api::names::dns_1123_subdomain(&name), None);
        }
    }
}
