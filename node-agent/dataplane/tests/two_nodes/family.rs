//! Addresses of all that is on the segment, in both families.

use std::net::IpAddr;

/// Which IP, of what goes through and of what it is encapsulated in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

pub(crate) use Family::{V4, V6};

impl Family {
    pub(crate) const BOTH: [Self; 2] = [V4, V6];

    pub(crate) fn pick<T>(self, v4: T, v6: T) -> T {
        match self {
            V4 => v4,
            V6 => v6,
        }
    }

    /// Of the host of this number, on the segment.
    pub(crate) fn host(self, number: u8) -> IpAddr {
        self.pick(
            IpAddr::from([198, 18, 0, number]),
            address(&format!("2001:db8::{number}")),
        )
    }

    pub(crate) fn pod_range(self, node: u8) -> String {
        self.pick(
            format!("10.244.{node}.0/24"),
            format!("2001:db8:a:{node}::/64"),
        )
    }

    pub(crate) fn pod(self, node: u8) -> IpAddr {
        self.pick(
            IpAddr::from([10, 244, node, 1]),
            address(&format!("2001:db8:a:{node}::1")),
        )
    }

    pub(crate) fn vip(self) -> IpAddr {
        address(self.pick("198.18.100.1", "2001:db8:100::1"))
    }
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
