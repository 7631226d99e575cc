//! The packet that is asked about, as a frame.

use std::net::{IpAddr, SocketAddr};

use fairlead_dataplane_common::{FlowKey, checksum, protocol};
use serde_json::Value;

/// TCP's flags (RFC 9293 §3.1).
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The source of frames from outside: locally administered, of nobody.
const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// What `BPF_PROG_TEST_RUN` puts into one page beside its headroom.
const SIZE_MAX: u16 = 3_400;
/// The segment size a SYN announces: that of a full Ethernet frame.
const MSS: u16 = 1_460;
/// Identifier of an echo request that names no other.
const ECHO_IDENTIFIER: u16 = 1;

/// What was asked for cannot be a packet.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field of the request.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

/// A packet of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sends; of ICMP the port is the identifier.
    pub from: SocketAddr,
    /// For whom it is; of ICMP without a port.
    pub to: SocketAddr,
    /// IP protocol number: TCP, UDP, ICMP or ICMPv6.
    pub protocol: u8,
    /// TCP's flags.
    pub flags: u8,
    /// The VLAN whose tag it bears.
    pub vlan: Option<u16>,
    /// Of the IP packet; `None`: no more than the headers.
    pub size: Option<u16>,
}

impl Packet {
    /// Reads `from`, `to`, `protocol`, `flags`, `vlan` and `size` from a query's parameters.
    ///
    /// # Errors
    /// Names the parameter that is missing or wrong.
    pub fn parse(params: &Value) -> Result<Self, Invalid> {
        let text = |field: &str| params.get(field).and_then(Value::as_str);
        let name = text("protocol").unwrap_or("tcp");
        let is_icmp = name == "icmp";
        let end = |field: &'static str| {
            let given = text(field).ok_or_else(|| invalid(field, "is missing"))?;
            let address = given.trim_start_matches('[').trim_end_matches(']');
            match (given.parse::<SocketAddr>(), address.parse::<IpAddr>()) {
                (Ok(socket), _) => Ok(socket),
                (_, Ok(address)) if is_icmp => Ok(SocketAddr::new(address, ECHO_IDENTIFIER)),
                (_, Ok(_)) => Err(invalid(
                    field,
                    format!("{given} has no port: give ADDRESS:PORT, or [ADDRESS]:PORT in IPv6"),
                )),
                _ => Err(invalid(
                    field,
                    format!(
                        "{given:?} is no address: give ADDRESS:PORT, or [ADDRESS]:PORT in IPv6"
                    ),
                )),
            }
        };
        let (from, to) = (end("from")?, end("to")?);
        if from.is_ipv4() != to.is_ipv4() {
            let problem = format!("{to} is of another family than {from}");
            return Err(invalid("to", problem));
        }
        let protocol = match (name, to.is_ipv4()) {
            ("tcp", _) => protocol::TCP,
            ("udp", _) => protocol::UDP,
            ("icmp", true) => protocol::ICMP,
            ("icmp", false) => protocol::ICMPV6,
            (other, _) => {
                let problem = format!("{other:?} is not one of tcp, udp, icmp");
                return Err(invalid("protocol", problem));
            }
        };
        let mut flags = 0;
        for flag in text("flags").unwrap_or_default().split(',') {
            flags |= match flag {
                "" => 0,
                "syn" => SYN,
                "ack" => ACK,
                // Nobody sends it alone.
                "fin" => FIN | ACK,
                "rst" => RST,
                other => {
                    let problem = format!("{other:?} is not one of syn, ack, fin, rst");
                    return Err(invalid("flags", problem));
                }
            };
        }
        if flags != 0 && protocol != protocol::TCP {
            return Err(invalid("flags", "only TCP has any"));
        }
        if flags == 0 {
            flags = ACK;
        }
        let packet = Self {
            from,
            to,
            protocol,
            flags,
            vlan: number(params, "vlan", 1..=4094)?,
            size: None,
        };
        let headers = packet.headers_length();
        let size = number(params, "size", headers..=SIZE_MAX)?;
        Ok(Self { size, ..packet })
    }

    /// The flow as maps know it.
    pub fn key(&self) -> FlowKey {
        let is_icmp = self.is_icmp();
        let port = if is_icmp { &self.from } else { &self.to };
        FlowKey {
            source: self.from.ip().into(),
            destination: self.to.ip().into(),
            vpc: 0,
            source_port_be: self.from.port().to_be(),
            destination_port_be: port.port().to_be(),
            protocol: self.protocol,
            padding: [0; 3],
        }
    }

    /// Whether it opens a connection.
    pub fn opens(&self) -> bool {
        self.protocol == protocol::TCP && self.flags & (SYN | ACK) == SYN
    }

    /// The frame, for the interface whose address is `receiver`.
    pub fn frame(&self, receiver: [u8; 6]) -> Vec<u8> {
        let size = usize::from(self.size.unwrap_or_else(|| self.headers_length()));
        let mut frame = Vec::with_capacity(18 + size);
        frame.extend(receiver);
        frame.extend(SENDER);
        if let Some(vlan) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(vlan.to_be_bytes());
        }
        let transport = self.transport(size - self.ip_length());
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([0x08, 0x00]);
                let mut header = vec![0x45, 0];
                header.extend((size as u16).to_be_bytes());
                // No identification, "don't fragment", 64 hops.
                header.extend([0, 0, 0x40, 0, 64, self.protocol, 0, 0]);
                header.extend(from.octets());
                header.extend(to.octets());
                let check = !checksum::sum(&header);
                header[10..12].copy_from_slice(&check.to_ne_bytes());
                frame.extend(header);
            }
            (from, to) => {
                frame.extend([0x86, 0xdd]);
                frame.extend([0x60, 0, 0, 0]);
                frame.extend((transport.len() as u16).to_be_bytes());
                frame.extend([self.protocol, 64]);
                frame.extend(octets(from));
                frame.extend(octets(to));
            }
        }
        frame.extend(transport);
        frame
    }

    fn is_icmp(&self) -> bool {
        matches!(self.protocol, protocol::ICMP | protocol::ICMPV6)
    }

    fn ip_length(&self) -> usize {
        if self.to.is_ipv4() { 20 } else { 40 }
    }

    fn headers_length(&self) -> u16 {
        let transport = match self.protocol {
            protocol::TCP if self.opens() => 24,
            protocol::TCP => 20,
            _ => 8,
        };
        self.ip_length() as u16 + transport
    }

    /// The segment, datagram or message of `length` bytes, its checksum in it.
    fn transport(&self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        let check_at = match self.protocol {
            protocol::TCP => {
                bytes.extend(self.from.port().to_be_bytes());
                bytes.extend(self.to.port().to_be_bytes());
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 0]);
                let words = if self.opens() { 6 } else { 5 };
                bytes.extend([words << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
                if self.opens() {
                    bytes.extend([2, 4]);
                    bytes.extend(MSS.to_be_bytes());
                }
                16
            }
            protocol::UDP => {
                bytes.extend(self.from.port().to_be_bytes());
                bytes.extend(self.to.port().to_be_bytes());
                bytes.extend((length as u16).to_be_bytes());
                bytes.extend([0, 0]);
                6
            }
            _ => {
                let request = if self.protocol == protocol::ICMP {
                    8
                } else {
                    128
                };
                bytes.extend([request, 0, 0, 0]);
                bytes.extend(self.from.port().to_be_bytes());
                bytes.extend([0, 1]);
                2
            }
        };
        bytes.resize(length, 0);
        let mut covered = Vec::new();
        if self.protocol != protocol::ICMP {
            covered.extend(octets(self.from.ip()));
            covered.extend(octets(self.to.ip()));
            covered.extend([0, self.protocol]);
            covered.extend((length as u16).to_be_bytes());
        }
        covered.extend(&bytes);
        let check = match !checksum::sum(&covered) {
            // "None" of a datagram (RFC 768).
            0 if self.protocol == protocol::UDP => 0xffff,
            check => check,
        };
        bytes[check_at..check_at + 2].copy_from_slice(&check.to_ne_bytes());
        bytes
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn number(
    params: &Value,
    field: &'static str,
    range: std::ops::RangeInclusive<u16>,
) -> Result<Option<u16>, Invalid> {
    let Some(given) = params.get(field) else {
        return Ok(None);
    };
    // Query strings carry numbers as text.
    let number = match given {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|number| u16::try_from(number).ok()),
    };
    match number.filter(|number| range.contains(number)) {
        Some(number) => Ok(Some(number)),
        None => {
            let (first, last) = (range.start(), range.end());
            let problem = format!("{given} is not a number from {first} to {last}");
            Err(invalid(field, problem))
        }
    }
}

fn invalid(field: &'static str, problem: impl Into<String>) -> Invalid {
    Invalid {
        field,
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode::decode;

    fn parse(params: Value) -> Result<Packet, String> {
        Packet::parse(&params).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn frames_of_every_kind_are_whole_and_their_checksums_right() {
        for (from, to) in [
            ("192.0.2.7:5555", "198.18.100.1:80"),
            ("[2001:db8::7]:5555", "[2001:db8::1]:80"),
        ] {
            for (protocol, flags) in [
                ("tcp", "syn"),
                ("tcp", ""),
                ("tcp", "fin"),
                ("udp", ""),
                ("icmp", ""),
            ] {
                for more in [0_u16, 1, 500] {
                    let mut params =
                        json!({"from": from, "to": to, "protocol": protocol, "flags": flags});
                    let least = parse(params.clone()).unwrap().headers_length();
                    params["size"] = (least + more).into();
                    let packet = parse(params).unwrap();
                    let layers = decode(&packet.frame([2; 6]));
                    let last = layers.last().unwrap();
                    assert_eq!(layers.len(), 3, "{layers:?}");
                    let check = ("checksum", "right".to_owned());
                    assert!(last.fields.contains(&check), "{layers:?}");
                }
            }
        }
    }

    #[test]
    fn tag_stands_before_the_packet() {
        let packet = parse(json!({
            "from": "192.0.2.7:5555", "to": "198.18.100.1:80", "vlan": "100",
        }));
        let names: Vec<&str> = decode(&packet.unwrap().frame([2; 6]))
            .iter()
            .map(|layer| layer.name)
            .collect();
        assert_eq!(names, ["Ethernet", "VLAN", "IPv4", "TCP"]);
    }

    #[test]
    fn what_cannot_be_a_packet_is_refused_with_the_parameters_name() {
        let good = json!({"from": "192.0.2.7:5555", "to": "198.18.100.1:80"});
        assert_eq!(parse(good.clone()).unwrap().flags, ACK);
        for (field, value, expected) in [
            ("from", "192.0.2.7", "from: 192.0.2.7 has no port"),
            ("to", "web", "to: \"web\" is no address"),
            ("to", "[2001:db8::1]:80", "another family"),
            ("protocol", "sctp", "protocol: \"sctp\" is not one of"),
            ("flags", "syn,urg", "flags: \"urg\" is not one of"),
            (
                "vlan",
                "5000",
                "vlan: \"5000\" is not a number from 1 to 4094",
            ),
            ("size", "30", "size: \"30\" is not a number from 40 to"),
        ] {
            let mut params = good.clone();
            params[field] = value.into();
            let error = parse(params).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(parse(json!({})).unwrap_err(), "from: is missing");
        let mut flagged = good;
        flagged["protocol"] = "udp".into();
        flagged["flags"] = "syn".into();
        assert_eq!(parse(flagged).unwrap_err(), "flags: only TCP has any");
    }
}
