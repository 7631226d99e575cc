//! Names of addresses, below `in-addr.arpa` (RFC 1035 §3.5) and `ip6.arpa` (RFC 3596 §2.5).

use std::net::IpAddr;

use hickory_proto::rr::Name;
use ipnetwork::IpNetwork;

/// What a name below `arpa` stands for: an address, or the first bits of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reversed {
    pub(crate) address: IpAddr,
    /// How many bits the name gives.
    pub(crate) bits: u8,
}

impl Reversed {
    pub(crate) fn of(name: &Name) -> Option<Self> {
        let network = name.parse_arpa_name().ok()?;
        Some(Self {
            address: network.addr(),
            bits: network.prefix_len(),
        })
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.bits == bits(self.address)
    }

    /// How many of its bits name the zone that holds it, if it is of the range: the first whole
    /// labels that lie in the range.
    pub(crate) fn zone_bits(&self, range: IpNetwork) -> Option<u8> {
        let unit = unit(self.address);
        let zone = range.prefix().div_ceil(unit) * unit;
        (range.contains(self.address) && self.bits >= zone).then_some(zone)
    }
}

/// The last so many labels of a reverse name that give its first `bits` bits.
pub(crate) fn zone_name(name: &Name, address: IpAddr, bits: u8) -> Name {
    let labels = usize::from(bits / unit(address)) + 2;
    name.trim_to(labels)
}

/// How many bits a label stands for.
fn unit(address: IpAddr) -> u8 {
    if address.is_ipv4() { 8 } else { 4 }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
