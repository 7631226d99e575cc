//! What is put on the wire to announce an address.

use std::net::{Ipv4Addr, Ipv6Addr};

use fairlead_dataplane_common::checksum;

use crate::netlink::Mac;

const BROADCAST: Mac = [0xff; 6];
/// `ff02::1`, all nodes of the link, and its Ethernet address (RFC 2464 §7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
/// An advertisement with one option of eight bytes.
const ADVERTISEMENT_BYTES: u16 = 32;

/// An ARP announcement (RFC 5227 §3): a request in which both sides are `vip`.
pub(crate) fn gratuitous_arp(vip: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ETHERTYPE_ARP);
    // Ethernet, IPv4, the lengths of their addresses, a request (RFC 826).
    frame.extend([0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(vip.octets());
    frame.extend([0; 6]);
    frame.extend(vip.octets());
    frame
}

/// An unsolicited neighbour advertisement (RFC 4861 §7.2.6) that overrides what hosts know.
pub(super) fn unsolicited_advertisement(vip: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(ADVERTISEMENT_BYTES.to_be_bytes());
    // The hop limit proves that it was not routed here.
    frame.extend([ICMPV6, 255]);
    frame.extend(vip.octets());
    frame.extend(ALL_NODES.octets());
    let message = frame.len();
    // Type 136, no code, no checksum yet; override, neither a router's nor solicited.
    frame.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
    frame.extend(vip.octets());
    // The target's link-layer address (RFC 4861 §4.6.1).
    frame.extend([2, 1]);
    frame.extend(mac);
    let sum = message_checksum(vip, &frame[message..]);
    frame[message + 2..message + 4].copy_from_slice(&sum);
    frame
}

fn ethernet(to: Mac, from: Mac, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128);
    frame.extend(to);
    frame.extend(from);
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// Over the pseudo-header too (RFC 8200 §8.1), as bytes of the wire.
fn message_checksum(source: Ipv6Addr, message: &[u8]) -> [u8; 2] {
    let mut summed = Vec::with_capacity(128);
    summed.extend(source.octets());
    summed.extend(ALL_NODES.octets());
    summed.extend(u32::from(ADVERTISEMENT_BYTES).to_be_bytes());
    summed.extend([0, 0, 0, ICMPV6]);
    summed.extend(message);
    (!checksum::sum(&summed)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    #[test]
    fn arp_announcement_asks_for_its_own_address() {
        let frame = gratuitous_arp([198, 18, 100, 1].into(), MAC);
        let expected = [
            &[0xff; 6][..],
            &MAC,
            &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1],
            &MAC,
            &[198, 18, 100, 1],
            &[0; 6],
            &[198, 18, 100, 1],
        ]
        .concat();
        assert_eq!(frame, expected);
    }

    #[test]
    fn advertisement_overrides_and_its_checksum_is_right() {
        let vip: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let frame = unsolicited_advertisement(vip, MAC);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(frame[..6], ALL_NODES_MAC);
        assert_eq!((frame[20], frame[21]), (ICMPV6, 255));
        assert_eq!((frame[54], frame[58]), (136, 0x20));
        assert_eq!(frame[62..78], vip.octets());
        assert_eq!(frame[78..], [2, 1, 2, 0, 0, 0, 0, 1]);
        // A message with its checksum in it sums up to nothing.
        assert_eq!(message_checksum(vip, &frame[54..]), [0, 0]);
    }
}
