//! A pod's place in the network: its namespace, the veth pair into it, its address and routes.
//!
//! The pod holds its address as a /32 and reaches everything through 169.254.1.1, a link-local
//! next hop that exists only as a permanent neighbour entry naming the veth's host end: no ARP, no
//! bridge, nothing to spoof. The host holds a /32 route to the pod. Knows nothing of eBPF: between
//! [`PodNetwork::prepare`] and [`PodNetwork::raise`] the caller attaches what guards the pod, so
//! that no packet passes before.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnetwork::IpNetwork;

use crate::ipam::{self, Ipam};
use crate::netlink::{self, Link, Mac, Netlink, NextHop, Route};
use crate::netns;

/// The next hop of every pod (RFC 3927 link-local: no pod or service can hold it).
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The pod's interface.
const POD_LINK: &str = "eth0";

/// What the names of the host ends start with; 11 hexadecimal digits of the uid's hash follow.
const HOST_LINK_PREFIX: &str = "fl";

/// Outer Ethernet, IPv4, UDP and VXLAN headers (RFC 7348 §5).
pub const ENCAPSULATION_BYTES: u32 = 50;

/// Why a pod could not be connected or disconnected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its address could not be given or taken back.
    #[error("address of pod {uid}")]
    Address {
        /// The pod.
        uid: String,
        /// What the record said.
        #[source]
        source: ipam::Error,
    },
    /// The record of addresses could not be read or deleted.
    #[error("record of pods' addresses")]
    Record(#[source] ipam::Error),
    /// Its namespace could not be made, entered or removed.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// The kernel refused a change of links, addresses or routes.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A setting of an interface could not be written.
    #[error("write {}", path.display())]
    Setting {
        /// The file under /proc/sys.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No netlink socket could be opened in the pod's namespace.
    #[error("open netlink socket in a pod's namespace")]
    Socket(#[source] io::Error),
    /// A link that was just made is not there: somebody else removed it.
    #[error("link {name} has vanished")]
    Vanished {
        /// The link's name.
        name: String,
    },
}

/// A pod that is connected, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The pod.
    pub uid: String,
    /// Its address.
    pub address: IpAddr,
    /// The host end of its veth pair.
    pub host: Link,
    /// The Ethernet address of the pod's end.
    pub pod_mac: Mac,
}

/// The pods' links of one node.
#[derive(Debug)]
pub struct PodNetwork {
    netlink: Netlink,
    node_address: IpAddr,
    /// Of the pods' links: the uplinks' less [`ENCAPSULATION_BYTES`].
    mtu: u32,
    ipam: Mutex<Ipam>,
}

impl PodNetwork {
    /// Reads the record of addresses in `state_dir`. Links are made in the namespace of `netlink`.
    pub fn open(
        netlink: Netlink,
        node_address: IpAddr,
        mtu: u32,
        state_dir: &Path,
    ) -> Result<Self, ipam::Error> {
        let ipam = Mutex::new(Ipam::open(state_dir)?);
        Ok(Self {
            netlink,
            node_address,
            mtu,
            ipam,
        })
    }

    /// New pods get their addresses from `range`.
    pub fn set_range(&self, range: IpNetwork) -> Result<(), ipam::Error> {
        self.ipam().set_range(range)
    }

    /// Where new pods get their addresses from.
    pub fn range(&self) -> Option<IpNetwork> {
        self.ipam().range()
    }

    /// Makes the namespace, the veth pair and what is inside, the host's end still down. A pod
    /// that is connected already is left as it is, with what is missing added.
    pub async fn prepare(&self, uid: &str, namespace: &Path) -> Result<PodLink, Error> {
        netns::ensure(namespace).await?;
        let address = self
            .ipam()
            .allocate(uid, namespace)
            .map_err(in_address(uid))?;
        let names = Names::of(uid);

        let host = match self.netlink.link(&names.host).await? {
            Some(host) if inside_has(namespace, names.pod_mac).await? => host,
            half => {
                // One end without the other that belongs to it: an earlier attempt died half-way,
                // or the namespace was made anew.
                if let Some(host) = half {
                    self.netlink.delete_link(host.index).await?;
                }
                self.add_pair(&names, namespace).await?;
                self.netlink
                    .link(&names.host)
                    .await?
                    .ok_or_else(|| Error::Vanished {
                        name: names.host.clone(),
                    })?
            }
        };
        configure_inside(namespace, address, host.mac, self.mtu).await?;
        Ok(PodLink {
            uid: uid.to_owned(),
            address,
            host,
            pod_mac: names.pod_mac,
        })
    }

    /// Brings the host's end up and routes the pod's address to it: from here on packets flow.
    pub async fn raise(&self, pod: &PodLink) -> Result<(), Error> {
        let name = &pod.host.name;
        // The stack sees what the programs hand up: the pod's packets to this host and the
        // outside. Replies to them leave by another interface than a strict check expects.
        set(format!("ipv4/conf/{name}/rp_filter"), "0")?;
        set(format!("ipv4/conf/{name}/forwarding"), "1")?;
        self.netlink.raise(pod.host.index, Some(self.mtu)).await?;
        let hop = NextHop {
            interface: pod.host.index,
            address: pod.address,
        };
        self.netlink.set_neighbour(hop, pod.pod_mac).await?;
        let route = Route {
            destination: pod.address.into(),
            interface: pod.host.index,
            gateway: None,
            source: Some(self.node_address),
            mtu: None,
        };
        Ok(self.netlink.replace_route(&route).await?)
    }

    /// The address a pod holds.
    pub fn address(&self, uid: &str) -> Option<IpAddr> {
        self.ipam().address(uid)
    }

    /// The link of a pod that is connected.
    pub async fn find(&self, uid: &str) -> Result<Option<PodLink>, Error> {
        let Some(address) = self.ipam().address(uid) else {
            return Ok(None);
        };
        let names = Names::of(uid);
        let host = self.netlink.link(&names.host).await?;
        Ok(host.map(|host| PodLink {
            uid: uid.to_owned(),
            address,
            host,
            pod_mac: names.pod_mac,
        }))
    }

    /// Removes the pod's link, its namespace and last its claim on the address.
    pub async fn remove(&self, uid: &str, namespace: &Path) -> Result<(), Error> {
        if let Some(host) = self.netlink.link(&Names::of(uid).host).await? {
            self.netlink.delete_link(host.index).await?;
        }
        netns::remove(namespace)?;
        self.ipam().release(uid).map_err(in_address(uid))
    }

    /// Makes the record and the links agree after a start: links of ours that no pod holds are
    /// deleted, addresses of pods that have no link are taken back. The pods that have both.
    pub async fn recover(&self) -> Result<Vec<PodLink>, Error> {
        let leases: Vec<(String, IpAddr)> = self
            .ipam()
            .leases()
            .map(|(uid, lease)| (uid.to_owned(), lease.address.into()))
            .collect();
        let mut links = own_links(&self.netlink).await?;
        let mut pods = Vec::new();
        for (uid, address) in leases {
            let names = Names::of(&uid);
            match links.iter().position(|link| link.name == names.host) {
                Some(found) => pods.push(PodLink {
                    uid,
                    address,
                    host: links.swap_remove(found),
                    pod_mac: names.pod_mac,
                }),
                None => {
                    tracing::info!(pod = uid, %address, "pod has no link: taking its address back");
                    self.ipam().release(&uid).map_err(in_address(&uid))?;
                }
            }
        }
        for link in links {
            tracing::info!(link = link.name, "link belongs to no pod: deleting it");
            self.netlink.delete_link(link.index).await?;
        }
        Ok(pods)
    }

    async fn add_pair(&self, names: &Names, namespace: &Path) -> Result<(), Error> {
        let file = netns::open(namespace)?;
        let (host, pod) = ((&*names.host, names.host_mac), (POD_LINK, names.pod_mac));
        self.netlink
            .add_veth(host, pod, file.as_fd(), self.mtu)
            .await?;
        // Pods have no IPv6 address; without one the link would still chatter (MLD, router
        // solicitations), and every such packet would be counted as spoofed.
        set_if_present(format!("ipv6/conf/{}/disable_ipv6", names.host), "1")
    }

    fn ipam(&self) -> MutexGuard<'_, Ipam> {
        // The record is replaced whole, never left half-changed by a panic.
        self.ipam.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes every pod's link and namespace, and the record, when the agent is being uninstalled.
pub async fn remove_all(netlink: &Netlink, state_dir: &Path) -> Result<(), Error> {
    for link in own_links(netlink).await? {
        netlink.delete_link(link.index).await?;
    }
    let ipam = Ipam::open(state_dir).map_err(Error::Record)?;
    for (_, lease) in ipam.leases() {
        netns::remove(&lease.namespace)?;
    }
    ipam.delete().map_err(Error::Record)
}

async fn own_links(netlink: &Netlink) -> Result<Vec<Link>, netlink::Error> {
    let mut links = netlink.links().await?;
    links.retain(|link| link.is_veth && is_host_link(&link.name));
    Ok(links)
}

/// The names and Ethernet addresses of a pod's pair: a function of the uid, so that an agent that
/// starts anew finds them without a record.
struct Names {
    host: String,
    host_mac: Mac,
    pod_mac: Mac,
}

impl Names {
    fn of(uid: &str) -> Self {
        let hash = fnv1a(uid.as_bytes());
        let [_, _, _, _, a, b, c, d] = hash.to_be_bytes();
        Self {
            // 2 + 11 characters of the 15 that IFNAMSIZ allows.
            host: format!("{HOST_LINK_PREFIX}{:011x}", hash >> 20),
            // Locally administered; 02:fa and 02:fb are taken by the encapsulated packets.
            host_mac: [0x02, 0xf1, a, b, c, d],
            pod_mac: [0x02, 0xf2, a, b, c, d],
        }
    }
}

fn is_host_link(name: &str) -> bool {
    name.strip_prefix(HOST_LINK_PREFIX)
        .is_some_and(|rest| rest.len() == 11 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// FNV-1a, 64 bits: stable across releases of compiler and library, unlike the standard hasher.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn in_address(uid: &str) -> impl FnOnce(ipam::Error) -> Error {
    move |source| Error::Address {
        uid: uid.to_owned(),
        source,
    }
}

/// Whether the namespace holds the pod's end of the pair.
async fn inside_has(namespace: &Path, mac: Mac) -> Result<bool, Error> {
    netns::enter(namespace, move || async move {
        let link = open_inside()?.link(POD_LINK).await?;
        Ok(link.is_some_and(|link| link.mac == mac))
    })
    .await?
}

async fn configure_inside(
    namespace: &Path,
    address: IpAddr,
    host_mac: Mac,
    mtu: u32,
) -> Result<(), Error> {
    netns::enter(namespace, move || async move {
        let netlink = open_inside()?;
        let lo = find_inside(&netlink, "lo").await?;
        netlink.raise(lo.index, None).await?;
        set_if_present(format!("ipv6/conf/{POD_LINK}/disable_ipv6"), "1")?;
        let link = find_inside(&netlink, POD_LINK).await?;
        netlink.add_address(link.index, address.into()).await?;
        netlink.raise(link.index, Some(mtu)).await?;
        let gateway = IpAddr::V4(GATEWAY);
        let hop = NextHop {
            interface: link.index,
            address: gateway,
        };
        netlink.set_neighbour(hop, host_mac).await?;
        let mut route = Route {
            destination: gateway.into(),
            interface: link.index,
            gateway: None,
            source: None,
            mtu: None,
        };
        netlink.replace_route(&route).await?;
        route.destination = IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), 0)
            .expect("zero is a prefix length of IPv4");
        route.gateway = Some(gateway);
        Ok(netlink.replace_route(&route).await?)
    })
    .await?
}

fn open_inside() -> Result<Netlink, Error> {
    Netlink::open().map_err(Error::Socket)
}

async fn find_inside(netlink: &Netlink, name: &str) -> Result<Link, Error> {
    netlink.link(name).await?.ok_or_else(|| Error::Vanished {
        name: name.to_owned(),
    })
}

/// Writes a setting of the calling thread's network namespace.
fn set(name: String, value: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys/net").join(name);
    fs::write(&path, value).map_err(|source| Error::Setting { path, source })
}

/// As [`set`], for what a kernel may have been built without.
fn set_if_present(name: String, value: &str) -> Result<(), Error> {
    match set(name, value) {
        Err(Error::Setting { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
