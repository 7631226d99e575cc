//! Choosing free numbers: addresses of the service network, and node ports. What is taken is kept
//! in the store, one key each, written in the same transaction as the Service that holds it.

use std::net::IpAddr;

use fairlead_api::{Index, RevisionedBytes};
use fairlead_store::{Expect, Key, Op, Snapshot};
use ipnetwork::IpNetwork;
use rand::RngExt;
use serde::{Deserialize, Serialize};

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

/// Something that one Service at a time may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Claim {
    Address(IpAddr),
    NodePort(u16),
}

/// The Service that holds a claim: the value at the claim's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Claim {
    fn key(self) -> Key {
        Key::raw(match self {
            Self::Address(address) => format!("/registry/ranges/serviceips/{address}"),
            Self::NodePort(port) => format!("/registry/ranges/servicenodeports/{port}"),
        })
    }

    /// Who holds it, and the condition that this is still so.
    pub(crate) fn holder(self, snapshot: &Snapshot) -> Option<(Holder, Expect)> {
        let entry = snapshot.get(&self.key())?;
        let holder = serde_json::from_slice(&entry.value).ok()?;
        Some((holder, Expect::Revision(entry.revision)))
    }

    /// Takes it for a Service, on the condition that nothing changed since it was looked up.
    pub(crate) fn take(self, holder: &Holder, expect: Expect) -> Op {
        let holder = serde_json::to_string(holder).expect("two texts always serialise");
        let members = holder.trim_start_matches('{');
        Op::Put {
            key: self.key(),
            expect,
            value: RevisionedBytes {
                head: r#"{"resourceVersion":""#.into(),
                tail: format!(r#"",{members}"#).into(),
            },
            index: Index::default().into(),
        }
    }

    /// Gives it back.
    pub(crate) fn release(self) -> Op {
        Op::Delete {
            key: self.key(),
            expect: Expect::Any,
        }
    }

    /// Whether a key belongs to a claim.
    pub(crate) fn is_claim(key: &Key) -> bool {
        key.as_str().starts_with("/registry/ranges/")
    }
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

    #[test]
    fn claim_is_kept_as_json_that_names_its_holder() {
        let holder = Holder {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
        };
        let Op::Put { value, .. } = Claim::NodePort(30_080).take(&holder, Expect::Absent) else {
            panic!("a claim is taken by writing it");
        };
        let stamped = value.stamp(fairlead_api::Revision(7));
        assert_eq!(serde_json::from_slice::<Holder>(&stamped).unwrap(), holder);
        let whole: serde_json::Value = serde_json::from_slice(&stamped).unwrap();
        assert_eq!(whole["resourceVersion"], "7");
    }
}
