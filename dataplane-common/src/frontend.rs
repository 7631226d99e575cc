use crate::hash;
use crate::maps::FRONTEND_BUCKETS;
use crate::{Address, RouteKey};

/// The entry is in use. Set in every entry, so that an all-zero one is free.
pub const FRONTEND_USED: u32 = 1;
/// A VIP: packets for it are balanced where they enter a node.
pub const FRONTEND_EXTERNAL: u32 = 2;
/// A ClusterIP: translated at connect only.
pub const FRONTEND_CLUSTER: u32 = 4;
/// Not a service but the VIP itself (port 0, protocol 0): answers echo requests and tells a packet
/// for a closed port of a VIP from one that is none of ours. The agent adds one for each external
/// address of each VPC; its `service` is unused.
pub const FRONTEND_ADDRESS: u32 = 8;
/// A node port: an address of this node itself, at which other ports are the node's own business.
pub const FRONTEND_NODE_PORT: u32 = 16;
/// With [`FRONTEND_ADDRESS`]: this node answers ARP requests and neighbour solicitations for it.
pub const FRONTEND_ANNOUNCED: u32 = 32;

/// Entries of a bucket: two of 32 bytes, one cache line.
pub const BUCKET_ENTRIES: usize = 2;

/// What a packet or a socket asks for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FrontendKey {
    /// The service's address; of a prefix the first, its host bits clear.
    pub address: Address,
    /// The network the client is in.
    pub vpc: u32,
    /// The service's port, network order.
    pub port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// How many bits of the address count (of 128: an IPv4 prefix counts 96 more), where it stands for
    /// a whole prefix; 0 for one address.
    pub prefix: u8,
}
map_struct!(FrontendKey, 24);

/// One frontend: 32 bytes, two to a cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FrontendEntry {
    /// What it answers to.
    pub key: FrontendKey,
    /// Service slot: indexes `services` and `service_stats`.
    pub service: u32,
    /// [`FRONTEND_USED`] and the rest.
    pub flags: u32,
}
map_struct!(FrontendEntry, 32);

/// A VIP that is a whole prefix: an element of `vip_prefixes`, whose keys are
/// [`RouteKey`](crate::RouteKey)s. It says where to look in `frontends`, in either bank: an address is
/// answered for by itself, or by the longest of these that it is in and that answers at the port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VipPrefix {
    /// Its first address.
    pub network: Address,
    /// How many bits of it count, of 128.
    pub length: u32,
}
map_struct!(VipPrefix, 20);

/// An element of `frontends`.
///
/// The table is a bucketised cuckoo hash (Pagh and Rodler 2004; buckets of two fill to 89 %): a key
/// is in one of two buckets, so a lookup reads at most two cache lines, hit or miss.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FrontendBucket {
    /// In no order; unused ones are zero.
    pub entries: [FrontendEntry; BUCKET_ENTRIES],
}
map_struct!(FrontendBucket, 64);

impl VipPrefix {
    /// How many bits of its [`RouteKey`] count.
    #[inline(always)]
    pub const fn bits(&self) -> u32 {
        RouteKey::BITS - 128 + self.length
    }
}

impl FrontendKey {
    /// The key of `protocol` at `address`:`port_be` in `vpc`.
    #[inline(always)]
    pub const fn new(vpc: u32, address: Address, protocol: u8, port_be: u16) -> Self {
        Self {
            address,
            vpc,
            port_be,
            protocol,
            prefix: 0,
        }
    }

    /// The key of the same port and protocol at all addresses of `prefix`.
    #[inline(always)]
    pub const fn at_prefix(self, prefix: &VipPrefix) -> Self {
        Self {
            address: prefix.network,
            prefix: prefix.length as u8,
            ..self
        }
    }

    /// The key of the [`FRONTEND_ADDRESS`] entry of `address` in `vpc`.
    #[inline(always)]
    pub const fn of_address(vpc: u32, address: Address) -> Self {
        Self::new(vpc, address, 0, 0)
    }

    /// The two buckets the key may be in, each below [`FRONTEND_BUCKETS`]; they may be equal.
    #[inline(always)]
    pub const fn buckets(&self) -> [u32; 2] {
        let words = &self.address.words;
        let high = (words[0] as u64) << 32 | words[1] as u64;
        let low = (words[2] as u64) << 32 | words[3] as u64;
        let place = (self.prefix as u64) << 24 | (self.port_be as u64) << 8 | self.protocol as u64;
        let rest = (self.vpc as u64) << 32 | place;
        let mixed = hash::mix(low ^ high.rotate_left(29) ^ rest.rotate_left(40));
        let mixed = hash::mix(mixed ^ rest);
        [
            (mixed >> 32) as u32 & (FRONTEND_BUCKETS - 1),
            mixed as u32 & (FRONTEND_BUCKETS - 1),
        ]
    }

    /// The index in `frontends` of `bucket` in `bank`.
    #[inline(always)]
    pub const fn index(bank: u32, bucket: u32) -> u32 {
        (bank & 1) * FRONTEND_BUCKETS + bucket
    }
}

impl FrontendBucket {
    /// The entry of `key`, if it is in this bucket.
    #[inline(always)]
    pub fn find(&self, key: &FrontendKey) -> Option<&FrontendEntry> {
        // Written out: the verifier sees two constant offsets instead of a loop.
        let [first, second] = &self.entries;
        if first.matches(key) {
            return Some(first);
        }
        if second.matches(key) {
            return Some(second);
        }
        None
    }
}

impl FrontendEntry {
    /// Compares the words that differ most often first: the end of the address, then the port.
    #[inline(always)]
    fn matches(&self, key: &FrontendKey) -> bool {
        let (own, other) = (&self.key.address.words, &key.address.words);
        own[3] == other[3]
            && self.key.port_be == key.port_be
            && self.key.protocol == key.protocol
            && self.key.prefix == key.prefix
            && own[2] == other[2]
            && own[1] == other[1]
            && own[0] == other[0]
            && self.key.vpc == key.vpc
            && self.flags & FRONTEND_USED != 0
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    fn key(number: u32) -> FrontendKey {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + number / 4);
        FrontendKey::new(0, address.into(), 6, (80 + number as u16 % 4).to_be())
    }

    #[test]
    fn bucket_finds_its_keys_and_no_other() {
        let entry = |number, service| FrontendEntry {
            key: key(number),
            service,
            flags: FRONTEND_USED | FRONTEND_EXTERNAL,
        };
        let bucket = FrontendBucket {
            entries: [entry(1, 11), entry(2, 12)],
        };
        assert_eq!(bucket.find(&key(1)).unwrap().service, 11);
        assert_eq!(bucket.find(&key(2)).unwrap().service, 12);
        assert_eq!(bucket.find(&key(3)), None);
        assert_eq!(bucket.find(&FrontendKey { vpc: 1, ..key(1) }), None);
    }

    #[test]
    fn first_address_of_a_prefix_is_not_the_prefix() {
        let prefix = VipPrefix {
            network: key(0).address,
            length: 96 + 28,
        };
        let of_all = key(1).at_prefix(&prefix);
        let bucket = FrontendBucket {
            entries: [
                FrontendEntry {
                    key: of_all,
                    service: 11,
                    flags: FRONTEND_USED | FRONTEND_EXTERNAL,
                },
                FrontendEntry::default(),
            ],
        };
        assert_eq!(bucket.find(&of_all).unwrap().service, 11);
        assert_eq!(bucket.find(&key(1)), None);
        assert_ne!(of_all.buckets(), key(1).buckets());
    }

    #[test]
    fn all_zero_key_is_not_found_in_an_empty_bucket() {
        assert_eq!(
            FrontendBucket::default().find(&FrontendKey::default()),
            None
        );
    }

    #[test]
    fn neighbouring_keys_spread_over_the_buckets() {
        let mut load = vec![0_u8; FRONTEND_BUCKETS as usize];
        for number in 0..FRONTEND_BUCKETS {
            for bucket in key(number).buckets() {
                load[bucket as usize] = load[bucket as usize].saturating_add(1);
            }
        }
        // Two balls a bin on average: a good hash leaves exp(-2) = 13.5 % of the bins empty.
        let empty = load.iter().filter(|load| **load == 0).count() * 1000 / load.len();
        assert!(
            (125..145).contains(&empty),
            "{empty} of 1000 buckets are nobody's choice"
        );
    }
}
