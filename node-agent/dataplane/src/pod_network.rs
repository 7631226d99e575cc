//! A pod's place in the network: its namespace, the veth pair into it, its addresses and routes.
//!
//! The pod holds its addresses as a /32 and a /128 and reaches everything through 169.254.1.1 and
//! fe80::1, link-local next hops that exist only as permanent neighbour entries naming the veth's
//! host end: no ARP, no neighbour discovery, no router advertisements, no bridge, nothing to spoof.
//! The host holds a route to each address of the pod. Knows nothing of eBPF: between
//! [`PodNetwork::prepare`] and [`PodNetwork::raise`] the caller attaches what guards the pod, so
//! that no packet passes before.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnetwork::IpNetwork;

use crate::ipam::{self, Ipam};
use crate::netlink::{self, Link, Mac, Netlink, NextHop, Route};
use crate::netns;

/// The next hops of every pod (link-local by RFC 3927 and RFC 4291 §2.5.6: no pod or service can
/// hold them).
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The pod's interface.
const POD_LINK: &str = "eth0";

/// What the names of the host ends start with; 11 hexadecimal digits of the uid's hash follow.
const HOST_LINK_PREFIX: &str = "fl";

/// Inner Ethernet, outer IP, UDP and VXLAN headers (RFC 7348 §5): what pods' packets leave free
/// where nodes reach each other at addresses like `node`.
pub fn encapsulation_bytes(node: IpAddr) -> u32 {
    if node.is_ipv4() { 50 } else { 70 }
}

/// Why a pod could not be connected or disconnected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its addresses could not be given or taken back.
    #[error("addresses of pod {uid}")]
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
    /// A setting of the network could not be read or written.
    #[error("{operation} {}", path.display())]
    Setting {
        /// What was tried.
        operation: &'static str,
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
    /// Its addresses, one a family.
    pub addresses: Vec<IpAddr>,
    /// The host end of its veth pair.
    pub host: Link,
    /// The Ethernet address of the pod's end.
    pub pod_mac: Mac,
}

/// The pods' links of one node.
#[derive(Debug)]
pub struct PodNetwork {
    netlink: Netlink,
    /// One a family.
    node_addresses: Vec<IpAddr>,
    /// Of the pods' links: the uplinks' less [`encapsulation_bytes`].
    mtu: u32,
    ipam: Mutex<Ipam>,
}

impl PodNetwork {
    /// Reads the record of addresses in `state_dir`. Links are made in the namespace of `netlink`.
    pub fn open(
        netlink: Netlink,
        node_addresses: Vec<IpAddr>,
        mtu: u32,
        state_dir: &Path,
    ) -> Result<Self, ipam::Error> {
        let ipam = Mutex::new(Ipam::open(state_dir)?);
        Ok(Self {
            netlink,
            node_addresses,
            mtu,
            ipam,
        })
    }

    /// New pods get an address from each of `ranges`.
    pub fn set_ranges(&self, ranges: &[IpNetwork]) -> Result<(), ipam::Error> {
        self.ipam().set_ranges(ranges)
    }

    /// Where new pods get their addresses from, one range a family.
    pub fn ranges(&self) -> Vec<IpNetwork> {
        self.ipam().ranges()
    }

    /// Makes the namespace, the veth pair and what is inside, the host's end still down. A pod
    /// that is connected already is left as it is, with what is missing added.
    pub async fn prepare(&self, uid: &str, namespace: &Path) -> Result<PodLink, Error> {
        netns::ensure(namespace).await?;
        let addresses = self
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
        configure_inside(namespace, addresses.clone(), host.mac, self.mtu).await?;
        Ok(PodLink {
            uid: uid.to_owned(),
            addresses,
            host,
            pod_mac: names.pod_mac,
        })
    }

    /// Brings the host's end up and routes the pod's addresses to it: from here on packets flow.
    pub async fn raise(&self, pod: &PodLink) -> Result<(), Error> {
        let name = &pod.host.name;
        // The stack sees what the programs hand up: the pod's packets to this host and the
        // outside. Replies to them leave by another interface than a strict check expects.
        set(format!("ipv4/conf/{name}/rp_filter"), "0")?;
        set(format!("ipv4/conf/{name}/forwarding"), "1")?;
        let has_ipv6 = pod.addresses.iter().any(IpAddr::is_ipv6);
        quieten_ipv6(name, has_ipv6)?;
        if has_ipv6 {
            forward_ipv6()?;
        }
        self.netlink.raise(pod.host.index, Some(self.mtu)).await?;
        for &address in &pod.addresses {
            let hop = NextHop {
                interface: pod.host.index,
                address,
            };
            self.netlink.set_neighbour(hop, pod.pod_mac).await?;
            let is_same_family = |own: &&IpAddr| own.is_ipv4() == address.is_ipv4();
            let route = Route {
                destination: address.into(),
                interface: pod.host.index,
                gateway: None,
                source: self.node_addresses.iter().find(is_same_family).copied(),
                mtu: None,
            };
            self.netlink.replace_route(&route).await?;
        }
        Ok(())
    }

    /// The addresses a pod holds.
    pub fn addresses(&self, uid: &str) -> Option<Vec<IpAddr>> {
        self.ipam().addresses(uid).map(<[IpAddr]>::to_vec)
    }

    /// The link of a pod that is connected.
    pub async fn find(&self, uid: &str) -> Result<Option<PodLink>, Error> {
        let Some(addresses) = self.addresses(uid) else {
            return Ok(None);
        };
        let names = Names::of(uid);
        let host = self.netlink.link(&names.host).await?;
        Ok(host.map(|host| PodLink {
            uid: uid.to_owned(),
            addresses,
            host,
            pod_mac: names.pod_mac,
        }))
    }

    /// Removes the pod's link, its namespace and last its claim on the addresses.
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
        let leases: Vec<(String, Vec<IpAddr>)> = self
            .ipam()
            .leases()
            .map(|(uid, lease)| (uid.to_owned(), lease.addresses.clone()))
            .collect();
        let mut links = own_links(&self.netlink).await?;
        let mut pods = Vec::new();
        for (uid, addresses) in leases {
            let names = Names::of(&uid);
            match links.iter().position(|link| link.name == names.host) {
                Some(found) => pods.push(PodLink {
                    uid,
                    addresses,
                    host: links.swap_remove(found),
                    pod_mac: names.pod_mac,
                }),
                None => {
                    tracing::info!(
                        pod = uid,
                        ?addresses,
                        "pod has no link: taking its addresses back"
                    );
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
        // Until it is known whether the pod speaks IPv6 at all.
        quieten_ipv6(&names.host, false)
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
    addresses: Vec<IpAddr>,
    host_mac: Mac,
    mtu: u32,
) -> Result<(), Error> {
    netns::enter(namespace, move || async move {
        let netlink = open_inside()?;
        let lo = find_inside(&netlink, "lo").await?;
        netlink.raise(lo.index, None).await?;
        quieten_ipv6(POD_LINK, addresses.iter().any(IpAddr::is_ipv6))?;
        let link = find_inside(&netlink, POD_LINK).await?;
        for address in &addresses {
            netlink.add_address(link.index, (*address).into()).await?;
        }
        netlink.raise(link.index, Some(mtu)).await?;
        for address in addresses {
            let (gateway, everywhere): (IpAddr, IpAddr) = match address {
                IpAddr::V4(_) => (GATEWAY_V4.into(), Ipv4Addr::UNSPECIFIED.into()),
                IpAddr::V6(_) => (GATEWAY_V6.into(), Ipv6Addr::UNSPECIFIED.into()),
            };
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
            route.destination =
                IpNetwork::new(everywhere, 0).expect("zero is a prefix length of both families");
            route.gateway = Some(gateway);
            netlink.replace_route(&route).await?;
        }
        Ok(())
    })
    .await?
}

/// Lets a link of a pair have IPv6, or not, and in either case nothing but what it is given: no
/// address of its own making, no duplicate detection, no router asked for or believed. All of that
/// would delay the pod, and the guard would count its packets as spoofed.
fn quieten_ipv6(link: &str, has_ipv6: bool) -> Result<(), Error> {
    /// `IN6_ADDR_GEN_MODE_NONE` of linux/if_link.h.
    const NO_LINK_LOCAL: &str = "1";
    let settings = [
        ("addr_gen_mode", NO_LINK_LOCAL),
        ("accept_ra", "0"),
        ("accept_dad", "0"),
        ("accept_redirects", "0"),
        ("autoconf", "0"),
        ("router_solicitations", "0"),
        ("disable_ipv6", if has_ipv6 { "0" } else { "1" }),
    ];
    for (name, value) in settings {
        set_if_present(format!("ipv6/conf/{link}/{name}"), value)?;
    }
    Ok(())
}

/// Lets this host forward IPv6: what pods send to the outside, and what comes back to them. Unlike
/// IPv4, Linux knows no forwarding of single interfaces (but since 6.17). A host that forwards stops
/// to believe router advertisements unless it is told to: those that had been believed still are.
fn forward_ipv6() -> Result<(), Error> {
    const ALL: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
    const LINKS: &str = "/proc/sys/net/ipv6/conf";
    /// Believes advertisements only while the host does not forward.
    const UNLESS_FORWARDING: &str = "1";
    let reading = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Setting {
            operation: "read",
            path,
            source,
        }
    };
    let forwards = fs::read_to_string(ALL).map_err(reading(Path::new(ALL)))?;
    if forwards.trim() == "1" {
        return Ok(());
    }
    for link in fs::read_dir(LINKS).map_err(reading(Path::new(LINKS)))? {
        let link = link.map_err(reading(Path::new(LINKS)))?.file_name();
        let setting = Path::new(LINKS).join(&link).join("accept_ra");
        // A link may go while it is looked at.
        let believes = fs::read_to_string(&setting).unwrap_or_default();
        let is_template = ["all", "default", "lo"].iter().any(|name| link == *name);
        if believes.trim() == UNLESS_FORWARDING && !is_template {
            set_if_present(format!("ipv6/conf/{}/accept_ra", link.display()), "2")?;
        }
    }
    set("ipv6/conf/all/forwarding".to_owned(), "1")
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
    fs::write(&path, value).map_err(|source| Error::Setting {
        operation: "write",
        path,
        source,
    })
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
