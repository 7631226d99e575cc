use crate::Address;

/// Finds a pod of this node by its address; the key of `endpoints`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct EndpointKey {
    /// The pod's address.
    pub address: Address,
    /// The network it belongs to.
    pub vpc: u32,
}
map_struct!(EndpointKey, 20);

/// How a pod of this node is reached.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EndpointEntry {
    /// The host's end of the pod's veth pair.
    pub ifindex: u32,
    /// Of the pod's own end.
    pub mac: [u8; 6],
    /// None defined.
    pub flags: u16,
}
map_struct!(EndpointEntry, 12);

/// Who is behind a veth pair; `pods` finds it by the ifindex of the host's end.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PodEntry {
    /// The only source addresses the pod may use, `::` for one it does not have.
    pub addresses: [Address; 2],
    /// The network it belongs to.
    pub vpc: u32,
    /// None defined.
    pub flags: u32,
}
map_struct!(PodEntry, 40);

impl PodEntry {
    /// Whether the pod may send as `source`.
    #[inline(always)]
    pub fn owns(&self, source: &Address) -> bool {
        let [first, second] = &self.addresses;
        !source.is_unspecified() && (first == source || second == source)
    }

    /// Whether the pod speaks IPv6 at all.
    #[inline(always)]
    pub fn has_ipv6(&self) -> bool {
        let [first, second] = &self.addresses;
        !(first.is_v4() || first.is_unspecified()) || !(second.is_v4() || second.is_unspecified())
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn pod_owns_its_addresses_and_never_the_unspecified_one() {
        let (v4, v6) = (
            Ipv4Addr::new(10, 244, 1, 10).into(),
            Ipv6Addr::LOCALHOST.into(),
        );
        let single = PodEntry {
            addresses: [v4, Address::UNSPECIFIED],
            ..PodEntry::default()
        };
        assert!(single.owns(&v4) && !single.owns(&v6) && !single.has_ipv6());
        assert!(!single.owns(&Address::UNSPECIFIED));
        let dual = PodEntry {
            addresses: [v4, v6],
            ..single
        };
        assert!(dual.owns(&v4) && dual.owns(&v6) && dual.has_ipv6());
    }
}
