//! The way to every other node and real server: which uplink, and whose Ethernet address frames
//! carry.
//!
//! XDP forwards without asking the stack, so it needs the next hop's address beforehand, and the
//! stack never learns from XDP's packets that the neighbour is alive. Therefore the routing table
//! is asked for each one's next hop, a datagram to the discard port makes the stack resolve it
//! and confirm it again when it goes stale, and every change of the neighbour table is followed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::local::Way;
use crate::netlink::{self, Neighbour, Netlink, NextHop};

/// How often routes are looked up again and stale neighbours confirmed: well below the kernel's
/// `gc_stale_time` of 60 s, after which it may forget them.
const REFRESH: Duration = Duration::from_secs(10);

/// RFC 863.
const DISCARD_PORT: u16 = 9;

/// The addresses of all other nodes and real servers, as they change.
pub(crate) type Wanted = watch::Receiver<Arc<BTreeSet<IpAddr>>>;

/// Finds the ways to the wanted addresses and tells `found` of each, again whenever it may have
/// changed. Returns when the sender of `wanted` is gone.
pub(crate) async fn follow(
    netlink: Netlink,
    mut wanted: Wanted,
    found: impl Fn(IpAddr, Way) + Send,
) -> std::io::Result<()> {
    let mut changes = netlink::neighbour_changes()?;
    let mut links = netlink::link_changes()?;
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A socket on the namespace this was started in, whatever thread it is polled from.
    let probe = Probe::open()?;
    let mut routes = Routes::default();
    loop {
        let is_anew = tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => false,
                Err(_) => return Ok(()),
            },
            _ = refresh.tick() => true,
            _ = links.next() => true,
            change = changes.next() => {
                let Some(neighbour) = change else {
                    return Err(std::io::Error::other("the neighbour socket was closed"));
                };
                if let Some(behind) = routes.behind.get(&neighbour.hop) {
                    tell(behind, &neighbour.hop, neighbour.mac, &found);
                }
                continue;
            }
        };
        let addresses = Arc::clone(&wanted.borrow_and_update());
        let before = if is_anew { Routes::default() } else { routes };
        let looked_up = before.look_up(&netlink, &addresses).await;
        let table = netlink.neighbours().await;
        let (fresh, table) = match (looked_up, table) {
            (Ok(fresh), Ok(table)) => (fresh, table),
            (Err(error), _) | (_, Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "looking up ways failed");
                routes = Routes::default();
                continue;
            }
        };
        routes = fresh;
        let table: HashMap<NextHop, Neighbour> =
            table.into_iter().map(|entry| (entry.hop, entry)).collect();
        for (hop, behind) in &routes.behind {
            let known = table.get(hop);
            tell(behind, hop, known.and_then(|entry| entry.mac), &found);
            if !known.is_some_and(|entry| entry.fresh)
                && let Some((address, _)) = behind.first_key_value()
            {
                probe.send(*address);
            }
        }
    }
}

/// Which next hop each address has.
#[derive(Default)]
struct Routes {
    /// The addresses behind each next hop, and the MTUs on the way there.
    behind: HashMap<NextHop, BTreeMap<IpAddr, u32>>,
}

impl Routes {
    /// Those of `wanted`: as they were where they are known, else as the kernel says.
    async fn look_up(
        mut self,
        netlink: &Netlink,
        wanted: &BTreeSet<IpAddr>,
    ) -> Result<Self, netlink::Error> {
        self.behind.retain(|_, behind| {
            behind.retain(|address, _| wanted.contains(address));
            !behind.is_empty()
        });
        let known: BTreeSet<IpAddr> = self
            .behind
            .values()
            .flat_map(|b| b.keys().copied())
            .collect();
        let links = netlink.links().await?;
        let mtus: HashMap<u32, u32> = links.iter().map(|link| (link.index, link.mtu)).collect();
        for address in wanted.difference(&known) {
            match netlink.next_hop(*address).await {
                Ok((hop, mtu)) => {
                    let of_link = mtus.get(&hop.interface).copied().unwrap_or_default();
                    let mtu = mtu.map_or(of_link, |mtu| mtu.min(of_link));
                    self.behind.entry(hop).or_default().insert(*address, mtu);
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%address, error, "no route to a node or real server");
                }
            }
        }
        Ok(self)
    }
}

fn tell(
    behind: &BTreeMap<IpAddr, u32>,
    hop: &NextHop,
    mac: Option<netlink::Mac>,
    found: &impl Fn(IpAddr, Way),
) {
    for (address, mtu) in behind {
        let way = Way {
            interface: hop.interface,
            mtu: *mtu,
            mac,
            direct: hop.address == *address,
        };
        found(*address, way);
    }
}

/// Sends datagrams that make the stack resolve and confirm a neighbour.
struct Probe {
    v4: UdpSocket,
    v6: Option<UdpSocket>,
}

impl Probe {
    fn open() -> std::io::Result<Self> {
        let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        v4.set_nonblocking(true)?;
        // A kernel may have no IPv6.
        let v6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).ok();
        Ok(Self { v4, v6 })
    }

    fn send(&self, node: IpAddr) {
        let socket = match node {
            IpAddr::V4(_) => Some(&self.v4),
            IpAddr::V6(_) => self.v6.as_ref(),
        };
        if let Some(socket) = socket
            && let Err(error) = socket.send_to(&[], (node, DISCARD_PORT))
        {
            // Tried again with the next refresh; the way stays unresolved until then.
            tracing::debug!(%node, %error, "probing a neighbour failed");
        }
    }
}
