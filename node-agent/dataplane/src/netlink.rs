//! What this crate asks of rtnetlink: links, addresses, routes and neighbours of the network
//! namespace the socket was opened in. Each error names the operation and what it was about.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::{Stream, StreamExt, TryStreamExt};
use ipnetwork::IpNetwork;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder,
};

/// Marks routes as ours (`rtm_protocol`), so that they can be found and removed again. Unassigned
/// in linux/rtnetlink.h and in iproute2's rt_protos.
pub const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(0xfa);

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A request the kernel refused, or that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct Error {
    operation: String,
    #[source]
    source: rtnetlink::Error,
}

impl Error {
    fn of(operation: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        move |source| Self {
            operation: operation.into(),
            source,
        }
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The index, unique in the namespace.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The largest IP packet it carries, in bytes.
    pub mtu: u32,
    /// The Ethernet address; zero for a link that has none.
    pub mac: Mac,
    /// Whether it is one end of a veth pair.
    pub is_veth: bool,
}

/// The next hop towards an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// The interface packets leave by.
    pub interface: u32,
    /// Whose link-layer address they carry: the gateway, or the destination itself.
    pub address: IpAddr,
}

/// What the neighbour table says about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Where, and who.
    pub hop: NextHop,
    /// The link-layer address; `None` while it is being asked for, or was asked in vain, or the
    /// entry has been removed.
    pub mac: Option<Mac>,
    /// Whether the kernel believes in it without asking again.
    pub fresh: bool,
}

/// An rtnetlink socket in the namespace of the thread that opened it.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Opens the socket. Needs a tokio runtime, which drives it until the last clone is dropped.
    pub fn open() -> Result<Self, std::io::Error> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// All links.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let messages = self
            .handle
            .link()
            .get()
            .execute()
            .map_ok(link)
            .try_collect();
        messages.await.map_err(Error::of("list links"))
    }

    /// The link called `name`.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        let request = self.handle.link().get().match_name(name);
        let mut found = std::pin::pin!(request.execute());
        match found.try_next().await {
            Ok(message) => Ok(message.map(link)),
            Err(e) if is(&e, libc::ENODEV) => Ok(None),
            Err(e) => Err(Error::of(format!("look up link {name}"))(e)),
        }
    }

    /// Makes a veth pair: `host` here, and `peer` in the namespace behind `namespace`. Both down.
    pub async fn add_veth(
        &self,
        host: (&str, Mac),
        peer: (&str, Mac),
        namespace: BorrowedFd<'_>,
        mtu: u32,
    ) -> Result<(), Error> {
        let far = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer.0)
            .address(peer.1.to_vec())
            .mtu(mtu)
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let near = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(host.0)
            .address(host.1.to_vec())
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .build();
        let done = self.handle.link().add(near).execute().await;
        done.map_err(Error::of(format!("add veth {}", host.0)))
    }

    /// Brings a link up, with this MTU.
    pub async fn raise(&self, index: u32, mtu: Option<u32>) -> Result<(), Error> {
        let mut change = LinkUnspec::new_with_index(index).up();
        if let Some(mtu) = mtu {
            change = change.mtu(mtu);
        }
        let done = self.handle.link().set(change.build()).execute().await;
        done.map_err(Error::of(format!("bring up link {index}")))
    }

    /// Removes a link, if it is there.
    pub async fn delete_link(&self, index: u32) -> Result<(), Error> {
        let done = self.handle.link().del(index).execute().await;
        absent_is_fine(done, libc::ENODEV).map_err(Error::of(format!("delete link {index}")))
    }

    /// Gives a link an address, if it has not got it. An IPv6 address is usable at once: nobody is
    /// asked whether it is a duplicate.
    pub async fn add_address(&self, index: u32, address: IpNetwork) -> Result<(), Error> {
        let mut request = self
            .handle
            .address()
            .add(index, address.ip(), address.prefix());
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        let done = request.replace().execute().await;
        done.map_err(Error::of(format!("add address {address} to link {index}")))
    }

    /// Adds a route of ours, or replaces what leads to the same prefix. Without a gateway the
    /// destination is on the link. `source` is preferred for what this host sends.
    pub async fn replace_route(&self, route: &Route) -> Result<(), Error> {
        let done = self
            .handle
            .route()
            .add(route.message())
            .replace()
            .execute()
            .await;
        done.map_err(Error::of(format!("add route to {}", route.destination)))
    }

    /// Removes a route of ours, if it is there.
    pub async fn delete_route(&self, route: &Route) -> Result<(), Error> {
        let done = self.handle.route().del(route.message()).execute().await;
        absent_is_fine(done, libc::ESRCH)
            .map_err(Error::of(format!("delete route to {}", route.destination)))
    }

    /// The IPv4 routes this crate made through the given links, whatever died in between.
    pub async fn own_routes(&self) -> Result<Vec<Route>, Error> {
        let every = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages: Vec<RouteMessage> = self
            .handle
            .route()
            .get(every)
            .execute()
            .try_collect()
            .await
            .map_err(Error::of("list routes"))?;
        Ok(messages
            .iter()
            .filter(|message| message.header.protocol == ROUTE_PROTOCOL)
            .filter_map(Route::read)
            .collect())
    }

    /// Which way packets for `address` go, and the route's own MTU if it has one.
    pub async fn next_hop(&self, address: IpAddr) -> Result<(NextHop, Option<u32>), Error> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let query = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(address, prefix)
            .expect("the prefix length is the family's own")
            .build();
        let operation = || format!("look up the route to {address}");
        let mut found = std::pin::pin!(self.handle.route().get(query).execute());
        let message = found
            .try_next()
            .await
            .map_err(Error::of(operation()))?
            .ok_or_else(|| Error::of(operation())(rtnetlink::Error::RequestFailed))?;
        let mut hop = NextHop {
            interface: 0,
            address,
        };
        let mut mtu = None;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(interface) => hop.interface = *interface,
                RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => {
                    hop.address = IpAddr::V4(*gateway);
                }
                RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => {
                    hop.address = IpAddr::V6(*gateway);
                }
                RouteAttribute::Metrics(metrics) => mtu = mtu_of(metrics),
                // What else a route tells does not change where the packet goes next.
                _ => {}
            }
        }
        Ok((hop, mtu))
    }

    /// Makes a permanent neighbour entry, or replaces what there is.
    pub async fn set_neighbour(&self, hop: NextHop, mac: Mac) -> Result<(), Error> {
        let request = self.handle.neighbours().add(hop.interface, hop.address);
        let request = request
            .state(NeighbourState::Permanent)
            .link_layer_address(&mac)
            .replace();
        let done = request.execute().await;
        done.map_err(Error::of(format!("set neighbour {}", hop.address)))
    }

    /// The neighbour tables of both families.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, Error> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = self.handle.neighbours().get().set_address_family(family);
            let messages: Vec<NeighbourMessage> = request
                .execute()
                .try_collect()
                .await
                .map_err(Error::of("list neighbours"))?;
            all.extend(messages.iter().filter_map(neighbour));
        }
        Ok(all)
    }
}

/// A route that this crate makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Where it leads.
    pub destination: IpNetwork,
    /// The interface it leads through.
    pub interface: u32,
    /// The next hop; `None` where the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The address this host's own packets carry.
    pub source: Option<IpAddr>,
    /// The largest packet the way carries, where it is less than the interface's.
    pub mtu: Option<u32>,
}

impl Route {
    fn message(&self) -> RouteMessage {
        let scope = if self.gateway.is_some() {
            RouteScope::Universe
        } else {
            RouteScope::Link
        };
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(self.destination.network(), self.destination.prefix())
            .expect("an IpNetwork's prefix length fits its family")
            .output_interface(self.interface)
            .protocol(ROUTE_PROTOCOL)
            .scope(scope);
        if let Some(gateway) = self.gateway {
            builder = builder
                .gateway(gateway)
                .expect("gateways are of their route's family");
            // A gateway that is not on the link by the routing table, such as a pod's, still is.
            builder = builder.onlink();
        }
        if let Some(source) = self.source {
            builder = builder
                .pref_source(source)
                .expect("sources are of their route's family");
        }
        let mut message = builder.build();
        if let Some(mtu) = self.mtu {
            message
                .attributes
                .push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        message
    }

    fn read(message: &RouteMessage) -> Option<Self> {
        let mut route = Self {
            destination: IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), 0).ok()?,
            interface: 0,
            gateway: None,
            source: None,
            mtu: None,
        };
        let prefix = message.header.destination_prefix_length;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    route.destination = IpNetwork::new(IpAddr::V4(*address), prefix).ok()?;
                }
                RouteAttribute::Oif(interface) => route.interface = *interface,
                RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => {
                    route.gateway = Some(IpAddr::V4(*gateway));
                }
                RouteAttribute::PrefSource(RouteAddress::Inet(source)) => {
                    route.source = Some(IpAddr::V4(*source));
                }
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = mtu_of(metrics);
                }
                // Table, preference and cache information are the kernel's defaults.
                _ => {}
            }
        }
        Some(route)
    }
}

/// Follows changes of the neighbour tables. Ends only when the socket fails.
pub fn neighbour_changes() -> Result<impl Stream<Item = Neighbour> + Unpin, std::io::Error> {
    let (connection, handle, messages) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Neigh])?;
    tokio::spawn(connection);
    Ok(Box::pin(messages.filter_map(move |(message, _)| {
        // Held for as long as the stream: the connection ends with its last handle.
        let _open = &handle;
        let change = match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                neighbour(&message)
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
                neighbour(&message).map(|gone| Neighbour {
                    mac: None,
                    fresh: false,
                    ..gone
                })
            }
            _ => None,
        };
        std::future::ready(change)
    })))
}

/// Tells of changes of links: their addresses, their MTUs, whether they are up. Which one is not
/// told: who asks reads them anew. Ends only when the socket fails.
pub fn link_changes() -> Result<impl Stream<Item = ()> + Unpin, std::io::Error> {
    let (connection, handle, messages) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Link])?;
    tokio::spawn(connection);
    Ok(Box::pin(messages.map(move |_| {
        // Held for as long as the stream: the connection ends with its last handle.
        let _open = &handle;
    })))
}

fn mtu_of(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        mac: Mac::default(),
        is_veth: false,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(address) => {
                link.mac = address.try_into().unwrap_or_default();
            }
            LinkAttribute::LinkInfo(infos) => {
                link.is_veth = infos
                    .iter()
                    .any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
            }
            // The rest of a link's many attributes is nobody's business here.
            _ => {}
        }
    }
    link
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes[..].try_into().ok(),
            // Statistics and the like.
            _ => {}
        }
    }
    let state = message.header.state;
    let fresh = matches!(
        state,
        NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp
    );
    let usable = fresh
        || matches!(
            state,
            NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe
        );
    Some(Neighbour {
        hop: NextHop {
            interface: message.header.ifindex,
            address: address?,
        },
        mac: mac.filter(|_| usable),
        fresh,
    })
}

fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}

fn absent_is_fine(
    result: Result<(), rtnetlink::Error>,
    errno: i32,
) -> Result<(), rtnetlink::Error> {
    match result {
        Err(e) if is(&e, errno) => Ok(()),
        other => other,
    }
}
