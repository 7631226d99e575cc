//! What IP carries: TCP, UDP and what is tunnelled in it, ICMP.

use std::net::Ipv6Addr;

use fairlead_dataplane_common::{checksum, protocol};

use super::{Carried, Decoder, protocol_name, verdict};

impl Decoder<'_> {
    /// RFC 9293 §3.1.
    pub(super) fn tcp(&mut self, at: usize, carried: &Carried, is_whole: bool) -> Option<()> {
        const FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let header: [u8; 20] = self.bytes(at)?;
        let word = |index: usize| u16::from_be_bytes([header[index], header[index + 1]]);
        let long =
            |i: usize| u32::from_be_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let flags: Vec<&str> = (0..)
            .zip(FLAGS)
            .filter(|(bit, _)| header[13] & 1 << bit != 0)
            .map(|(_, name)| name)
            .collect();
        let header_length = usize::from(header[12] >> 4) * 4;
        let mut fields = vec![
            ("sourcePort", word(0).to_string()),
            ("destinationPort", word(2).to_string()),
            ("flags", flags.join(" ")),
            ("sequence", long(4).to_string()),
            ("acknowledgement", long(8).to_string()),
            ("window", word(14).to_string()),
        ];
        if let Some(size) = self.mss(at, header_length) {
            fields.push(("mss", size.to_string()));
        }
        let data = carried.length.saturating_sub(header_length);
        fields.push(("data", format!("{data} bytes")));
        self.add_checksum(&mut fields, at, carried, is_whole);
        self.push("TCP", at, fields);
        Some(())
    }

    /// The maximum segment size among TCP's options.
    fn mss(&self, at: usize, header_length: usize) -> Option<u16> {
        let mut options = self.frame.get(at + 20..at + header_length)?;
        while let [kind, rest @ ..] = options {
            options = match (kind, rest) {
                (0, _) => return None,
                (1, _) => rest,
                (2, [4, high, low, ..]) => return Some(u16::from_be_bytes([*high, *low])),
                (_, [length, ..]) => options.get(usize::from(*length).max(2)..)?,
                (_, []) => return None,
            };
        }
        None
    }

    /// RFC 768, with what is tunnelled in it.
    pub(super) fn udp(&mut self, at: usize, carried: &Carried, is_whole: bool) -> Option<()> {
        let header: [u8; 8] = self.bytes(at)?;
        let word = |index: usize| u16::from_be_bytes([header[index], header[index + 1]]);
        let mut fields = vec![
            ("sourcePort", word(0).to_string()),
            ("destinationPort", word(2).to_string()),
            ("length", word(4).to_string()),
        ];
        if word(6) == 0 {
            fields.push(("checksum", "none".to_owned()));
        } else {
            self.add_checksum(&mut fields, at, carried, is_whole);
        }
        self.push("UDP", at, fields);
        match word(2) {
            protocol::VXLAN_PORT => self.vxlan(at + 8),
            protocol::GUE_PORT => self.gue(at + 8),
            _ => Some(()),
        }
    }

    /// RFC 7348 §5.
    fn vxlan(&mut self, at: usize) -> Option<()> {
        let header: [u8; 8] = self.bytes(at)?;
        let vni = u32::from_be_bytes([0, header[4], header[5], header[6]]);
        self.push("VXLAN", at, vec![("vni", vni.to_string())]);
        self.ethernet(at + 8)
    }

    /// draft-ietf-intarea-gue: variant 0 has a header of its own, variant 1 is plain IP.
    fn gue(&mut self, at: usize) -> Option<()> {
        let [first] = self.bytes(at)?;
        match first >> 4 {
            4 | 6 => {
                self.push("GUE", at, vec![("variant", "1".to_owned())]);
                if first >> 4 == 4 {
                    self.ipv4(at)
                } else {
                    self.ipv6(at)
                }
            }
            0..=3 => {
                let [first, inner, _, _] = self.bytes(at)?;
                let fields = vec![
                    ("variant", "0".to_owned()),
                    ("protocol", protocol_name(inner)),
                ];
                self.push("GUE", at, fields);
                let behind = at + 4 + usize::from(first & 0x1f) * 4;
                match inner {
                    protocol::IPIP => self.ipv4(behind),
                    protocol::IPV6 => self.ipv6(behind),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// RFC 792.
    pub(super) fn icmp(&mut self, at: usize, carried: &Carried, is_whole: bool) -> Option<()> {
        let header: [u8; 8] = self.bytes(at)?;
        let (kind, code) = (header[0], header[1]);
        let rest = [4, 6].map(|i: usize| u16::from_be_bytes([header[i], header[i + 1]]));
        let mut fields = icmp_fields(
            match (kind, code) {
                (0, _) => "echo reply",
                (8, _) => "echo request",
                (3, 4) => "fragmentation needed",
                (3, _) => "destination unreachable",
                (11, _) => "time exceeded",
                (12, _) => "parameter problem",
                _ => "message",
            },
            kind,
            code,
        );
        match kind {
            0 | 8 => fields.extend(echo_fields(rest)),
            3 if code == 4 => fields.push(("mtu", rest[1].to_string())),
            _ => {}
        }
        if is_whole && let Some(all) = self.frame.get(at..at + carried.length) {
            fields.push(("checksum", verdict(checksum::sum(all))));
        }
        self.push("ICMP", at, fields);
        match kind {
            3 | 11 | 12 => self.ipv4(at + 8),
            _ => Some(()),
        }
    }

    /// RFC 4443, and neighbour discovery (RFC 4861).
    pub(super) fn icmpv6(&mut self, at: usize, carried: &Carried, is_whole: bool) -> Option<()> {
        let header: [u8; 8] = self.bytes(at)?;
        let (kind, code) = (header[0], header[1]);
        let rest = [4, 6].map(|i: usize| u16::from_be_bytes([header[i], header[i + 1]]));
        let mut fields = icmp_fields(
            match kind {
                1 => "destination unreachable",
                2 => "packet too big",
                3 => "time exceeded",
                4 => "parameter problem",
                128 => "echo request",
                129 => "echo reply",
                133 => "router solicitation",
                134 => "router advertisement",
                135 => "neighbour solicitation",
                136 => "neighbour advertisement",
                _ => "message",
            },
            kind,
            code,
        );
        match kind {
            2 => {
                let mtu = u32::from(rest[0]) << 16 | u32::from(rest[1]);
                fields.push(("mtu", mtu.to_string()));
            }
            128 | 129 => fields.extend(echo_fields(rest)),
            135 | 136 => {
                let target: [u8; 16] = self.bytes(at + 8)?;
                fields.push(("target", Ipv6Addr::from(target).to_string()));
            }
            _ => {}
        }
        self.add_checksum(&mut fields, at, carried, is_whole);
        self.push("ICMPv6", at, fields);
        match kind {
            1..=4 => self.ipv6(at + 8),
            _ => Some(()),
        }
    }
}

fn icmp_fields(name: &str, kind: u8, code: u8) -> Vec<(&'static str, String)> {
    vec![
        ("message", name.to_owned()),
        ("type", kind.to_string()),
        ("code", code.to_string()),
    ]
}

fn echo_fields([identifier, sequence]: [u16; 2]) -> [(&'static str, String); 2] {
    [
        ("identifier", identifier.to_string()),
        ("sequence", sequence.to_string()),
    ]
}
