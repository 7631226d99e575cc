//! The way to every other node: which uplink, and whose Ethernet address frames carry.
//!
//! XDP forwards without asking the stack, so it needs the next hop's address beforehand, and the
//! stack never learns from XDP's packets that the neighbour is alive. Therefore the routing table
//! is asked for each node's next hop, a datagram to the discard port makes the stack resolve it
//! and confirm it again when it goes stale, and every change of the neighbour table is followed.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::local::Way;
use crate::netlink::{self, Netlink, NextHop};

/// How often routes are looked up again and stale neighbours confirmed: well below the kernel's
/// `gc_stale_time` of 60 s, after which it may forget them.
const REFRESH: Duration = Duration::from_secs(10);

/// RFC 863.
const DISCARD_PORT: u16 = 9;

/// The addresses of all other nodes, as they change.
pub(crate) type Wanted = watch::Receiver<Arc<BTreeSet<IpAddr>>>;

/// Finds the ways to the wanted addresses and tells `found` of each, again whenever it may have
/// changed. Returns when the sender of `wanted` is gone.
pub(crate) async fn follow(
    netlink: Netlink,
    mut wanted: Wanted,
    found: impl Fn(IpAddr, Way) + Send,
) -> std::io::Result<()> {
    let mut changes = netlink::neighbour_changes()?;
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A socket on the namespace this was started in, whatever thread it is polled from.
    let probe = Probe::open()?;
    let mut hops: HashMap<NextHop, Target> = HashMap::new();
    loop {
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return Ok(()) },
            _ = refresh.tick() => {}
            change = changes.next() => {
                let Some(neighbour) = change else {
                    return Err(std::io::Error::other("the neighbour socket was closed"));
                };
                if let Some(target) = hops.get(&neighbour.hop) {
                    target.tell(&neighbour.hop, neighbour.mac, &found);
                }
                continue;
            }
        }
        let nodes = Arc::clone(&wanted.borrow_and_update());
        match look_up(&netlink, &nodes).await {
            Ok(fresh) => hops = fresh,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "looking up ways failed"
                );
                continue;
            }
        }
        let table = match netlink.neighbours().await {
            Ok(table) => table,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "reading neighbours failed"
                );
                continue;
            }
        };
        for (hop, target) in &hops {
            let known = table.iter().find(|neighbour| neighbour.hop == *hop);
            target.tell(hop, known.and_then(|neighbour| neighbour.mac), &found);
            if !known.is_some_and(|neighbour| neighbour.fresh)
                && let Some(node) = target.nodes.first()
            {
                probe.send(*node);
            }
        }
    }
}

/// The nodes behind a next hop.
struct Target {
    nodes: Vec<IpAddr>,
    mtu: u32,
}

impl Target {
    fn tell(&self, hop: &NextHop, mac: Option<netlink::Mac>, found: &impl Fn(IpAddr, Way)) {
        for node in &self.nodes {
            found(
                *node,
                Way {
                    interface: hop.interface,
                    mtu: self.mtu,
                    mac,
                    direct: hop.address == *node,
                },
            );
        }
    }
}

async fn look_up(
    netlink: &Netlink,
    nodes: &BTreeSet<IpAddr>,
) -> Result<HashMap<NextHop, Target>, netlink::Error> {
    let mtus: HashMap<u32, u32> = netlink
        .links()
        .await?
        .into_iter()
        .map(|link| (link.index, link.mtu))
        .collect();
    let mut hops: HashMap<NextHop, Target> = HashMap::new();
    for node in nodes {
        match netlink.next_hop(*node).await {
            Ok(hop) => {
                let mtu = mtus.get(&hop.interface).copied().unwrap_or_default();
                let target = hops.entry(hop).or_insert(Target {
                    nodes: Vec::new(),
                    mtu,
                });
                target.nodes.push(*node);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(%node, error, "no route to a node");
            }
        }
    }
    Ok(hops)
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
