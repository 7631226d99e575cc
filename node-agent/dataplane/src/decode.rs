//! Frames, for people: which headers there are, and what they say.
//!
//! Looks at what lies on the wire only. What is encapsulated is decoded too, and so is the packet
//! that an ICMP error quotes; a frame of which only the beginning is there is decoded that far.

mod transport;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_dataplane_common::{checksum, mac, protocol};

/// Headers in a frame at most: what nests deeper is nothing of ours.
const LAYERS_MAX: usize = 12;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// One header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What it is, as people call it.
    pub name: &'static str,
    /// Where it begins in the frame.
    pub offset: usize,
    /// What it says, in its own order.
    pub fields: Vec<(&'static str, String)>,
}

/// The headers of a frame that begins with Ethernet.
pub fn decode(frame: &[u8]) -> Vec<Layer> {
    let mut decoder = Decoder {
        frame,
        layers: Vec::new(),
    };
    // Nothing is behind the end of what was captured: that is all there is to say then.
    let _cut_short = decoder.ethernet(0);
    decoder.layers
}

/// An Ethernet address as people write it.
pub fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

struct Decoder<'a> {
    frame: &'a [u8],
    layers: Vec<Layer>,
}

/// Addresses, protocol and length of what an IP header carries, as a checksum covers them.
struct Carried {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    length: usize,
}

impl Decoder<'_> {
    fn bytes<const N: usize>(&mut self, offset: usize) -> Option<[u8; N]> {
        let found = self.frame.get(offset..offset.checked_add(N)?);
        match found.and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => Some(bytes),
            None => {
                let left = self.frame.len().saturating_sub(offset);
                self.push("cut short", offset, vec![("bytes", left.to_string())]);
                None
            }
        }
    }

    fn push(&mut self, name: &'static str, offset: usize, fields: Vec<(&'static str, String)>) {
        let layer = Layer {
            name,
            offset,
            fields,
        };
        self.layers.push(layer);
    }

    fn ethernet(&mut self, at: usize) -> Option<()> {
        if self.layers.len() >= LAYERS_MAX {
            return None;
        }
        let header: [u8; 14] = self.bytes(at)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, e0, e1] = header;
        let (destination, source) = ([d0, d1, d2, d3, d4, d5], [s0, s1, s2, s3, s4, s5]);
        let ethertype = u16::from_be_bytes([e0, e1]);
        self.push(
            "Ethernet",
            at,
            vec![
                ("source", named_mac(source)),
                ("destination", named_mac(destination)),
                ("type", ethertype_name(ethertype)),
            ],
        );
        self.behind_ethertype(at + 14, ethertype)
    }

    fn behind_ethertype(&mut self, at: usize, ethertype: u16) -> Option<()> {
        match ethertype {
            ETHERTYPE_IPV4 => self.ipv4(at),
            ETHERTYPE_IPV6 => self.ipv6(at),
            ETHERTYPE_ARP => self.arp(at),
            ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => self.vlan(at),
            _ => None,
        }
    }

    fn vlan(&mut self, at: usize) -> Option<()> {
        if self.layers.len() >= LAYERS_MAX {
            return None;
        }
        let [t0, t1, e0, e1] = self.bytes(at)?;
        let tag = u16::from_be_bytes([t0, t1]);
        let ethertype = u16::from_be_bytes([e0, e1]);
        self.push(
            "VLAN",
            at,
            vec![
                ("id", (tag & 0xfff).to_string()),
                ("priority", (tag >> 13).to_string()),
                ("type", ethertype_name(ethertype)),
            ],
        );
        self.behind_ethertype(at + 4, ethertype)
    }

    /// RFC 826, of IPv4 over Ethernet.
    fn arp(&mut self, at: usize) -> Option<()> {
        let body: [u8; 28] = self.bytes(at)?;
        let mac_at = |at: usize| array(&body, at).map_or_else(String::new, mac_text);
        let address_at = |at: usize| {
            array::<4>(&body, at).map_or_else(String::new, |b| Ipv4Addr::from(b).to_string())
        };
        let operation = match [body[6], body[7]] {
            [0, 1] => "request".to_owned(),
            [0, 2] => "reply".to_owned(),
            other => u16::from_be_bytes(other).to_string(),
        };
        let fields = vec![
            ("operation", operation),
            ("sender", format!("{} at {}", address_at(14), mac_at(8))),
            ("target", format!("{} at {}", address_at(24), mac_at(18))),
        ];
        self.push("ARP", at, fields);
        Some(())
    }

    /// RFC 791 §3.1.
    fn ipv4(&mut self, at: usize) -> Option<()> {
        let header: [u8; 20] = self.bytes(at)?;
        let word = |index: usize| u16::from_be_bytes([header[index], header[index + 1]]);
        let length = usize::from(header[0] & 0xf) * 4;
        let (total, fragment) = (usize::from(word(2)), word(6));
        let address =
            |i: usize| Ipv4Addr::new(header[i], header[i + 1], header[i + 2], header[i + 3]);
        let (source, destination) = (address(12), address(16));
        let mut fields = vec![
            ("source", source.to_string()),
            ("destination", destination.to_string()),
            ("protocol", protocol_name(header[9])),
            ("ttl", header[8].to_string()),
            ("length", total.to_string()),
        ];
        fields.push(("id", word(4).to_string()));
        if header[1] != 0 {
            fields.push(("tos", format!("0x{:02x}", header[1])));
        }
        if fragment & 0x4000 != 0 {
            fields.push(("dontFragment", "yes".to_owned()));
        }
        if fragment & 0x3fff != 0 {
            let more = if fragment & 0x2000 != 0 { "+" } else { "" };
            let offset = usize::from(fragment & 0x1fff) * 8;
            fields.push(("fragment", format!("{offset}{more}")));
        }
        if length > 20 {
            fields.push(("options", format!("{} bytes", length - 20)));
        }
        if let Some(whole) = self.frame.get(at..at + length.max(20)) {
            fields.push(("checksum", verdict(checksum::sum(whole))));
        }
        self.push("IPv4", at, fields);
        if length < 20 || fragment & 0x1fff != 0 {
            return None;
        }
        let carried = Carried {
            source: source.into(),
            destination: destination.into(),
            protocol: header[9],
            length: total.saturating_sub(length),
        };
        // The checksum of a fragmented packet covers what is not here.
        self.carried(at + length, &carried, fragment & 0x2000 == 0)
    }

    /// RFC 8200 §3.
    fn ipv6(&mut self, at: usize) -> Option<()> {
        let header: [u8; 40] = self.bytes(at)?;
        let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let source = Ipv6Addr::from(array::<16>(&header, 8)?);
        let destination = Ipv6Addr::from(array::<16>(&header, 24)?);
        let mut fields = vec![
            ("source", source.to_string()),
            ("destination", destination.to_string()),
            ("protocol", protocol_name(header[6])),
            ("hopLimit", header[7].to_string()),
            ("payload", length.to_string()),
        ];
        let class = first >> 20 & 0xff;
        if class != 0 {
            fields.push(("class", format!("0x{class:02x}")));
        }
        self.push("IPv6", at, fields);
        let carried = Carried {
            source: source.into(),
            destination: destination.into(),
            protocol: header[6],
            length,
        };
        self.carried(at + 40, &carried, true)
    }

    fn carried(&mut self, at: usize, carried: &Carried, is_whole: bool) -> Option<()> {
        if self.layers.len() >= LAYERS_MAX {
            return None;
        }
        match carried.protocol {
            protocol::TCP => self.tcp(at, carried, is_whole),
            protocol::UDP => self.udp(at, carried, is_whole),
            protocol::ICMP => self.icmp(at, carried, is_whole),
            protocol::ICMPV6 => self.icmpv6(at, carried, is_whole),
            protocol::IPIP => self.ipv4(at),
            protocol::IPV6 => self.ipv6(at),
            protocol::FRAGMENT => self.fragment(at, carried),
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                let [next, length] = self.bytes(at)?;
                let size = (usize::from(length) + 1) * 8;
                let fields = vec![
                    ("kind", protocol_name(carried.protocol)),
                    ("length", size.to_string()),
                ];
                self.push("IPv6 extension", at, fields);
                let inner = Carried {
                    protocol: next,
                    length: carried.length.saturating_sub(size),
                    ..*carried
                };
                self.carried(at + size, &inner, is_whole)
            }
            _ => None,
        }
    }

    /// RFC 8200 §4.5.
    fn fragment(&mut self, at: usize, carried: &Carried) -> Option<()> {
        let header: [u8; 8] = self.bytes(at)?;
        let place = u16::from_be_bytes([header[2], header[3]]);
        let more = if place & 1 != 0 { "+" } else { "" };
        let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let fields = vec![
            ("offset", format!("{}{more}", place & !7)),
            ("id", id.to_string()),
            ("protocol", protocol_name(header[0])),
        ];
        self.push("IPv6 fragment", at, fields);
        if place & !7 != 0 {
            return None;
        }
        let inner = Carried {
            protocol: header[0],
            length: carried.length.saturating_sub(8),
            ..*carried
        };
        self.carried(at + 8, &inner, false)
    }

    /// Whether the checksum of what is at `at` is right, if all that it covers is there.
    fn add_checksum(
        &self,
        fields: &mut Vec<(&'static str, String)>,
        at: usize,
        carried: &Carried,
        is_whole: bool,
    ) {
        let Some(segment) = self.frame.get(at..at + carried.length) else {
            return;
        };
        if !is_whole {
            return;
        }
        // The pseudo headers of RFC 9293 §3.1 and RFC 8200 §8.1 sum alike.
        let mut covered = Vec::with_capacity(40 + segment.len());
        for address in [carried.source, carried.destination] {
            match address {
                IpAddr::V4(v4) => covered.extend(v4.octets()),
                IpAddr::V6(v6) => covered.extend(v6.octets()),
            }
        }
        covered.extend([0, carried.protocol]);
        covered.extend((carried.length as u16).to_be_bytes());
        covered.extend(segment);
        fields.push(("checksum", verdict(checksum::sum(&covered))));
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        for (index, (name, value)) in self.fields.iter().enumerate() {
            let separator = if index == 0 { ": " } else { ", " };
            write!(f, "{separator}{name} {value}")?;
        }
        Ok(())
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// What a sum over everything a checksum covers says of it.
fn verdict(sum: u16) -> String {
    if sum == 0xffff { "right" } else { "wrong" }.to_owned()
}

/// An Ethernet address, and whom it names if a node of ours has made it.
fn named_mac(address: [u8; 6]) -> String {
    let text = mac_text(address);
    let [_, _, a, b, c, d] = address;
    let number = u32::from_be_bytes([a, b, c, d]);
    if mac::backend_of(address).is_some() {
        format!("{text} (backend {number})")
    } else if mac::is_node(address) {
        format!("{text} (node {number})")
    } else if let Some(left) = mac::chances_left(address) {
        let more = if left == 0 {
            String::new()
        } else {
            format!(", {left} more")
        };
        format!("{text} (node {number}, second chance{more})")
    } else {
        text
    }
}

fn ethertype_name(number: u16) -> String {
    match number {
        ETHERTYPE_IPV4 => "IPv4".to_owned(),
        ETHERTYPE_IPV6 => "IPv6".to_owned(),
        ETHERTYPE_ARP => "ARP".to_owned(),
        ETHERTYPE_VLAN => "VLAN".to_owned(),
        other => format!("0x{other:04x}"),
    }
}

fn protocol_name(number: u8) -> String {
    match number {
        protocol::ICMP => "ICMP".to_owned(),
        protocol::IPIP => "IPv4".to_owned(),
        protocol::TCP => "TCP".to_owned(),
        protocol::UDP => "UDP".to_owned(),
        protocol::IPV6 => "IPv6".to_owned(),
        protocol::ICMPV6 => "ICMPv6".to_owned(),
        protocol::SCTP => "SCTP".to_owned(),
        protocol::FRAGMENT => "fragment".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
