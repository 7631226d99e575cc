//! Where the cluster's names are asked for. Each node answers for itself: the Service
//! `kube-system/kube-dns` stands for the process that its agent keeps there.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// The domain that all names of the cluster end with.
pub const DOMAIN: &str = "cluster.local";
/// The namespace of the Service that pods ask.
pub const SERVICE_NAMESPACE: &str = "kube-system";
/// The Service that pods ask.
pub const SERVICE_NAME: &str = "kube-dns";
/// Where nodes answer at their own addresses, UDP and TCP. 53 may be somebody else's there.
pub const NODE_PORT: u16 = 6453;
/// The place of the ClusterIP in its range, as kubeadm has it. Addresses this low are not given to
/// Services that ask for none.
const ADDRESS_INDEX: u128 = 10;

/// The ClusterIP of this range; `None` if the range is too small.
pub fn address(services: IpNetwork) -> Option<IpAddr> {
    let address: IpAddr = match services.network() {
        IpAddr::V4(base) => {
            let index = u32::try_from(ADDRESS_INDEX).expect("a small number");
            IpAddr::V4((base.to_bits().checked_add(index)?).into())
        }
        IpAddr::V6(base) => IpAddr::V6((base.to_bits().checked_add(ADDRESS_INDEX)?).into()),
    };
    let is_last = match services {
        IpNetwork::V4(range) => IpAddr::V4(range.broadcast()) == address,
        IpNetwork::V6(_) => false,
    };
    (services.contains(address) && !is_last).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_the_tenth_of_a_range_that_has_so_many() {
        for (range, expected) in [
            ("10.96.0.0/12", Some("10.96.0.10")),
            ("2001:db8:b::/112", Some("2001:db8:b::a")),
            ("10.0.0.0/28", Some("10.0.0.10")),
            ("10.0.0.0/29", None),
            ("2001:db8::/125", None),
        ] {
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(address(range.parse().unwrap()), expected, "{range}");
        }
    }
}
