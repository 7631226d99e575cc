//! The keyed flow hash, and where in a table it points.
//!
//! A flow's hash is a pure function of the packet and the cluster's seed, so every node makes the
//! same pick. It is fast, not cryptographic: the seed keeps outsiders from aiming flows at one
//! backend; it does not withstand somebody who can read the picks of chosen packets at will.

use crate::{Address, FlowKey};

/// Odd, with its bits spread: the 64-bit golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Multiplies, and brings the well-mixed high half down to where the next step and the callers
/// look.
#[inline(always)]
pub const fn mix(value: u64) -> u64 {
    let product = value.wrapping_mul(MULTIPLIER);
    product ^ product >> 32
}

/// The hash of one direction of a flow.
#[inline(always)]
pub const fn flow(seed: &[u64; 2], key: &FlowKey) -> u32 {
    narrow(wide(seed, key))
}

/// The part of a [`wide`] hash that is the flow's [`flow`] hash.
#[inline(always)]
pub const fn narrow(wide: u64) -> u32 {
    (wide >> 16) as u32
}

/// All bits of the hash of one direction of a flow, as many as tell flows apart: the key of `flows`. Two
/// IPv4 flows of one protocol to one address never share it; others do by chance, which whoever uses it
/// as a key has to see.
#[inline(always)]
pub const fn wide(seed: &[u64; 2], key: &FlowKey) -> u64 {
    let ports = (key.source_port_be as u64) << 16 | key.destination_port_be as u64;
    let rest = ports << 32 ^ (key.vpc as u64) << 8 ^ key.protocol as u64;
    words(seed, &key.source, &key.destination, rest)
}

/// The hash of who sends a flow, whatever it sends and to where: IPVS' `sh`, and where a client of
/// a service with session affinity goes first.
#[inline(always)]
pub const fn source(seed: &[u64; 2], vpc: u32, source: &Address) -> u32 {
    narrow(words(
        seed,
        source,
        &Address::UNSPECIFIED,
        (vpc as u64) << 8,
    ))
}

/// The hash of the address that a flow is for: IPVS' `dh`.
#[inline(always)]
pub const fn destination(seed: &[u64; 2], vpc: u32, destination: &Address) -> u32 {
    narrow(words(
        seed,
        &Address::UNSPECIFIED,
        destination,
        (vpc as u64) << 8,
    ))
}

/// The hash of a socket's use of a service address: steady for as long as the socket lives.
#[inline(always)]
pub const fn socket(seed: &[u64; 2], cookie: u64, address: &Address, port_be: u16) -> u32 {
    let cookie_words = Address {
        words: [0, 0, (cookie >> 32) as u32, cookie as u32],
    };
    narrow(words(seed, &cookie_words, address, port_be as u64))
}

#[inline(always)]
const fn words(seed: &[u64; 2], source: &Address, destination: &Address, rest: u64) -> u64 {
    let (source, destination) = (&source.words, &destination.words);
    let source_high = (source[0] as u64) << 32 | source[1] as u64;
    let source_low = (source[2] as u64) << 32 | source[3] as u64;
    let target_high = (destination[0] as u64) << 32 | destination[1] as u64;
    let target_low = (destination[2] as u64) << 32 | destination[3] as u64;
    // The two halves do not wait for each other; the last step mixes them with the ports.
    let from = mix(source_low ^ source_high.rotate_left(29) ^ seed[0]);
    let to = mix(target_low ^ target_high.rotate_left(29) ^ rest ^ seed[1]);
    mix(from ^ to.rotate_left(32) ^ seed[1].rotate_left(17))
}

/// Maps a hash onto `0..length` without a division: the high half of the product.
#[inline(always)]
pub const fn reduce(hash: u32, length: u32) -> u32 {
    ((hash as u64 * length as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

    fn key(client: u32, port: u16) -> FlowKey {
        FlowKey {
            source: Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + client).into(),
            destination: Ipv4Addr::new(198, 18, 100, 1).into(),
            source_port_be: port.to_be(),
            destination_port_be: 80_u16.to_be(),
            protocol: 6,
            ..FlowKey::default()
        }
    }

    /// Spreads `keys` over `bins` and gives the largest deviation from the mean in per cent.
    fn deviation(seed: &[u64; 2], keys: impl Iterator<Item = FlowKey>, bins: u32) -> f64 {
        let mut load = vec![0_u32; bins as usize];
        let mut count = 0_u32;
        for key in keys {
            load[reduce(flow(seed, &key), bins) as usize] += 1;
            count += 1;
        }
        let mean = f64::from(count) / f64::from(bins);
        let off = |load: &u32| (f64::from(*load) - mean).abs() / mean;
        load.iter().map(off).fold(0.0, f64::max) * 100.0
    }

    #[test]
    fn one_client_with_many_ports_reaches_every_slot_evenly() {
        let keys = (1024..65_535).map(|port| key(7, port));
        let off = deviation(&SEED, keys, 61);
        assert!(off < 15.0, "{off} % from the mean");
    }

    #[test]
    fn many_clients_with_one_port_reach_every_slot_evenly() {
        let keys = (0..65_536).map(|client| key(client, 40_000));
        let off = deviation(&SEED, keys, 61);
        assert!(off < 15.0, "{off} % from the mean");
    }

    #[test]
    fn another_seed_moves_nearly_every_flow() {
        let other = [SEED[0] ^ 1, SEED[1]];
        let pick = |seed, port| reduce(flow(seed, &key(7, port)), 1009);
        let same = (1024..11_024)
            .filter(|port| pick(&SEED, *port) == pick(&other, *port))
            .count();
        assert!(same < 40, "{same} of 10000 picks are the same");
    }

    #[test]
    fn flows_to_one_address_never_share_a_wide_hash() {
        let keys = (0..1_000).flat_map(|client| (0..1_000).map(move |port| key(client, port)));
        let mut hashes: Vec<u64> = keys.map(|key| wide(&SEED, &key)).collect();
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
    }

    #[test]
    fn hash_of_a_known_flow_never_changes() {
        // Nodes of different versions must agree, or a rolling upgrade would move connections.
        let hash = flow(&SEED, &key(1, 40_000));
        assert_eq!(hash, 2_531_780_415);
    }

    #[test]
    fn clients_spread_over_the_slots_and_so_do_services() {
        let deviates = |hash: fn(&Address) -> u32| {
            let mut load = [0_u32; 16];
            for number in 0..16_000 {
                let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number);
                load[reduce(hash(&address.into()), 16) as usize] += 1;
            }
            load.iter().any(|load| !(850..1150).contains(load))
        };
        assert!(!deviates(|address| source(&SEED, 0, address)));
        assert!(!deviates(|address| destination(&SEED, 0, address)));
    }

    #[test]
    fn smallest_and_largest_hash_are_reduced_to_the_ends_of_the_range() {
        assert_eq!(reduce(0, 1009), 0);
        assert_eq!(reduce(u32::MAX, 1009), 1008);
    }

    #[test]
    fn sockets_spread_over_the_slots() {
        let vip = Address::from(Ipv4Addr::new(10, 96, 0, 10));
        let mut load = [0_u32; 16];
        for cookie in 0..16_000 {
            load[reduce(socket(&SEED, cookie, &vip, 53), 16) as usize] += 1;
        }
        assert!(
            load.iter().all(|load| (850..1150).contains(load)),
            "{load:?}"
        );
    }
}
