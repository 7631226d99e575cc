//! Choosing free numbers: addresses of the service network, and node ports.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rand::RngExt;

/// At most so many addresses of a range are used: with IPv6 a range has more than anybody needs,
/// and a search must end.
const ADDRESSES_MAX: u128 = 1 << 20;

/// Below this offset automatic choice goes only when the rest is full: people pick fixed
/// addresses there (KEP-3070).
const STATIC_BAND_MAX: u128 = 256;

/// The addresses of a network that may be given out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddressRange {
    network: IpNetwork,
    /// How many there are, without the network's own and IPv4's broadcast address.
    count: u128,
}

impl AddressRange {
    pub(crate) fn new(network: IpNetwork) -> Self {
        let (bits, reserved) = match network {
            IpNetwork::V4(_) => (32, 2),
            IpNetwork::V6(_) => (128, 1),
        };
        let size = 1_u128
            .checked_shl(u32::from(bits - network.prefix()))
            .unwrap_or(u128::MAX);
        Self {
            network,
            count: size.saturating_sub(reserved).min(ADDRESSES_MAX),
        }
    }

    pub(crate) fn network(&self) -> IpNetwork {
        self.network
    }

    /// Whether an address may be given out.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let (base, address) = match (self.network.network(), address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                (u128::from(base.to_bits()), u128::from(address.to_bits()))
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => (base.to_bits(), address.to_bits()),
            _ => return false,
        };
        address
            .checked_sub(base)
            .is_some_and(|offset| (1..=self.count).contains(&offset))
    }

    /// The address at `index`, counted from 0.
    fn at(&self, index: u128) -> IpAddr {
        let offset = index + 1;
        match self.network.network() {
            IpAddr::V4(base) => {
                let offset = u32::try_from(offset).expect("an IPv4 range has fewer than 2^32");
                IpAddr::V4((base.to_bits() + offset).into())
            }
            IpAddr::V6(base) => IpAddr::V6((base.to_bits() + offset).into()),
        }
    }

    /// A free address, from a random place on so that concurrent writers seldom collide.
    pub(crate) fn choose(&self, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let band = (self.count / 16)
            .clamp(16, STATIC_BAND_MAX)
            .min(self.count / 2);
        choose(self.count, band, |index| taken(self.at(index))).map(|index| self.at(index))
    }
}

/// The addresses that may be given out: of one family, or of each one range.
#[derive(Clone, Debug)]
pub(crate) struct ServiceRanges(Vec<AddressRange>);

impl ServiceRanges {
    /// Ranges of different families; the first is for Services that name no family.
    pub(crate) fn new(networks: impl IntoIterator<Item = IpNetwork>) -> Self {
        Self(networks.into_iter().map(AddressRange::new).collect())
    }

    pub(crate) fn of(&self, family: Family) -> Option<&AddressRange> {
        self.0
            .iter()
            .find(|range| Family::of(range.network.ip()) == family)
    }

    /// The families there are, the default first.
    pub(crate) fn families(&self) -> Vec<Family> {
        let networks = self.0.iter().map(|range| range.network.ip());
        networks.map(Family::of).collect()
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The family Kubernetes calls so.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::V4, Self::V6]
            .into_iter()
            .find(|family| family.as_str() == name)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// The ports that nodes may open for Services.
pub(crate) const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// A free node port.
pub(crate) fn choose_node_port(taken: impl Fn(u16) -> bool) -> Option<u16> {
    let count = u128::from(NODE_PORTS.end() - NODE_PORTS.start()) + 1;
    let at = |index: u128| {
        NODE_PORTS.start() + u16::try_from(index).expect("an index below the count of ports")
    };
    choose(count, 86, |index| taken(at(index))).map(at)
}

/// A free index below `count`: from `band` on first, then below it.
fn choose(count: u128, band: u128, taken: impl Fn(u128) -> bool) -> Option<u128> {
    if count == 0 {
        return None;
    }
    let start = rand::rng().random_range(band.min(count - 1)..count);
    (start..count)
        .chain(band..start)
        .chain(0..band)
        .find(|&index| !taken(index))
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeSet};

    use super::*;

    fn range(cidr: &str) -> AddressRange {
        AddressRange::new(cidr.parse().unwrap())
    }

    #[test]
    fn every_usable_address_is_given_once_then_none() {
        for (cidr, usable) in [
            ("10.96.0.0/28", 14),
            ("2001:db8::/124", 15),
            ("10.0.0.0/30", 2),
        ] {
            let range = range(cidr);
            let taken = RefCell::new(BTreeSet::new());
            while let Some(address) = range.choose(|address| taken.borrow().contains(&address)) {
                assert!(range.contains(address), "{address} of {cidr}");
                assert!(taken.borrow_mut().insert(address), "{address} twice");
            }
            assert_eq!(taken.borrow().len(), usable, "{cidr}");
        }
    }

    #[test]
    fn network_broadcast_and_strangers_are_outside() {
        let range = range("10.96.0.0/24");
        for address in [
            "10.96.0.0",
            "10.96.0.255",
            "10.95.255.255",
            "10.96.1.1",
            "::1",
        ] {
            assert!(!range.contains(address.parse().unwrap()), "{address}");
        }
        assert!(range.contains("10.96.0.1".parse().unwrap()));
        assert!(range.contains("10.96.0.254".parse().unwrap()));
    }

    #[test]
    fn low_addresses_are_left_to_people_while_others_are_free() {
        let range = range("10.96.0.0/16");
        for _ in 0..100 {
            let address = range.choose(|_| false).unwrap();
            assert!(
                address > "10.96.0.255".parse::<IpAddr>().unwrap(),
                "{address}"
            );
        }
    }

    #[test]
    fn node_ports_end_with_the_range() {
        assert!(NODE_PORTS.contains(&choose_node_port(|_| false).unwrap()));
        assert_eq!(choose_node_port(|_| true), None);
        assert_eq!(choose_node_port(|port| port != 30_007), Some(30_007));
    }
}
