//! The groups that questions for IPv6 VIPs are sent to (solicited-node multicast addresses, RFC 4291
//! §2.7.1). Cards filter by group and switches forward to those who have said that they listen (MLD, RFC
//! 3810): without a membership the questions that XDP answers would not reach it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};

use fairlead_dataplane_common::UplinkEntry;

/// Memberships, which last as long as this lives.
pub(super) struct Groups {
    /// The kernel counts memberships by socket; nothing is sent or received.
    socket: UdpSocket,
    /// By interface and group.
    joined: BTreeSet<(u32, Ipv6Addr)>,
}

impl Groups {
    /// In no group yet, in the caller's network namespace.
    ///
    /// # Errors
    /// The kernel has no IPv6.
    pub(super) fn open() -> io::Result<Self> {
        // Memberships do not depend on it; by the loopback's address nobody outside finds the socket.
        let of_loopback = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0));
        Ok(Self {
            socket: of_loopback.or_else(|_| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))?,
            joined: BTreeSet::new(),
        })
    }

    /// Joins the groups of `vips` on these interfaces, and leaves all others.
    pub(super) fn set(&mut self, vips: &BTreeSet<IpAddr>, uplinks: &BTreeMap<u32, UplinkEntry>) {
        let groups: BTreeSet<Ipv6Addr> = vips.iter().filter_map(|vip| group(*vip)).collect();
        let wanted: BTreeSet<(u32, Ipv6Addr)> = uplinks
            .keys()
            .flat_map(|interface| groups.iter().map(|group| (*interface, *group)))
            .collect();
        for (interface, group) in self.joined.difference(&wanted) {
            // An interface that is gone has taken its memberships with it.
            let _ = self.socket.leave_multicast_v6(group, *interface);
        }
        self.joined.retain(|one| wanted.contains(one));
        for (interface, group) in wanted.difference(&self.joined.clone()) {
            match self.socket.join_multicast_v6(group, *interface) {
                Ok(()) => {
                    self.joined.insert((*interface, *group));
                }
                // Tried again with the next change.
                Err(error) => tracing::warn!(
                    %group, interface, %error,
                    "cannot join the group that questions for a VIP go to"
                ),
            }
        }
    }
}

/// The group of an IPv6 address: `ff02::1:ff` and its last three bytes.
fn group(vip: IpAddr) -> Option<Ipv6Addr> {
    let IpAddr::V6(vip) = vip else { return None };
    let [.., high, low] = vip.segments();
    Some(Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | high & 0xff,
        low,
    ))
}

#[cfg(test)]
mod tests {
    use testbed::NetNs;

    use super::*;

    #[test]
    fn group_is_made_of_the_last_three_bytes() {
        let vip: Ipv6Addr = "2001:db8::a1:b2c3".parse().unwrap();
        assert_eq!(
            group(vip.into()),
            Some("ff02::1:ffa1:b2c3".parse().unwrap())
        );
        assert_eq!(group(IpAddr::from([198, 18, 100, 1])), None);
    }

    #[test]
    fn uplinks_listen_to_the_groups_of_the_vips_that_are_announced_and_no_longer() {
        if testbed::skip_without_root() {
            return;
        }
        let host = NetNs::unique("groups").unwrap();
        host.ip("link add eth0 type veth peer name eth1").unwrap();
        host.ip("link set eth0 up").unwrap();
        let link = host.ip("-o link show eth0").unwrap();
        let index = link.split(':').next().unwrap().trim().parse().unwrap();
        let uplinks = BTreeMap::from([(index, UplinkEntry::default())]);
        let vips = ["2001:db8::1:200", "198.18.0.200"].map(|vip| vip.parse().unwrap());
        let listens = || host.ip("maddress show dev eth0").unwrap();
        let mut groups = host.run(Groups::open).unwrap().unwrap();
        groups.set(&vips.into(), &uplinks);
        assert!(listens().contains("33:33:ff:01:02:00"), "{}", listens());
        groups.set(&BTreeSet::new(), &uplinks);
        assert!(!listens().contains("33:33:ff:01:02:00"), "{}", listens());
    }
}
