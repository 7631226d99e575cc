//! Packets: valid ones of every kind, most of them changed in a few places.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_dataplane_common::mac;
use packet_tests::frame::{self, ACK, FIN, RST, SYN};
use packet_tests::{
    CLIENT, CLIENT_V6, NODE_1, NODE_2, POD_1, POD_1_V6, POD_2, POD_2_V6, VIP, VIP_V6, frame_v6,
};

use crate::packet::{self, GUE, IP6IP, IPIP, IPV4, IPV6, TAGS, TCP, UDP, VXLAN};
use crate::rng::Rng;
use crate::services::{NODE_1_V6, SERVER_PORT, Services};

/// The largest IP packet that an uplink receives.
pub(crate) const MTU: usize = 1500;
const ETHERNET: usize = 14;
/// `BPF_PROG_TEST_RUN` takes no less.
const SHORTEST: usize = ETHERNET;
/// An Ethernet header, two tags, and the packet.
const LONGEST: usize = ETHERNET + 2 * 4 + MTU;

/// Makes packets from valid ones.
pub(crate) struct Generator {
    rng: Rng,
    valid: Vec<Vec<u8>>,
    ports: Vec<u16>,
    /// Those of services at a VIP, by protocol.
    ports_at: HashMap<(IpAddr, u8), Vec<u16>>,
    ids: Vec<u32>,
    answer: Option<Vec<u8>>,
}

impl Generator {
    pub(crate) fn new(seed: u64, services: &Services) -> Self {
        let mut ports: Vec<u16> = services.backends.keys().map(|(_, _, port)| *port).collect();
        ports.sort_unstable();
        ports.dedup();
        let mut ports_at: HashMap<(IpAddr, u8), Vec<u16>> = HashMap::new();
        for (vip, protocol, port) in services.backends.keys() {
            ports_at.entry((*vip, *protocol)).or_default().push(*port);
        }
        // By their order a seed gives the same packets again.
        ports_at
            .values_mut()
            .for_each(|ports| ports.sort_unstable());
        let mut ids: Vec<u32> = services.by_id.keys().copied().collect();
        ids.sort_unstable();
        Self {
            rng: Rng::new(seed),
            valid: valid_packets(),
            ports,
            ports_at,
            ids,
            answer: None,
        }
    }

    /// Remembers what a program has sent on, translated: sometimes its answer comes next.
    pub(crate) fn answer(&mut self, sent: &[u8]) {
        if !self.rng.one_in(3) {
            return;
        }
        let layers = packet::layers(sent);
        // What is for a pod elsewhere is in VXLAN.
        let Some(ip) = layers.last() else {
            return;
        };
        let Some((from, to)) = ip.ports(sent) else {
            return;
        };
        let flags = *self.rng.choose(&[SYN | ACK, ACK, ACK, FIN | ACK, RST]);
        let answer = match (ip.source, ip.destination, ip.protocol) {
            (IpAddr::V4(source), IpAddr::V4(destination), TCP) => {
                frame::tcp((destination, to), (source, from), flags, b"an answer")
            }
            (IpAddr::V4(source), IpAddr::V4(destination), UDP) => {
                frame::udp((destination, to), (source, from), b"an answer")
            }
            (IpAddr::V6(source), IpAddr::V6(destination), TCP) => {
                frame_v6::tcp((destination, to), (source, from), flags, b"an answer")
            }
            (IpAddr::V6(source), IpAddr::V6(destination), UDP) => {
                frame_v6::udp((destination, to), (source, from), b"an answer")
            }
            _ => return,
        };
        self.answer = Some(self.error_about(&answer).unwrap_or(answer));
    }

    /// Instead of a server's answer, sometimes what a hop on the way to it says of the question.
    fn error_about(&mut self, answer: &[u8]) -> Option<Vec<u8>> {
        if !self.rng.one_in(8) {
            return None;
        }
        let (kind, code) = *self.rng.choose(&[(3, 1), (3, 4), (11, 0)]);
        match packet::layers(answer).first()?.destination {
            IpAddr::V4(node) => {
                let (from, to) = frame::ends(answer);
                let about = frame::udp(to, from, b"a question");
                Some(frame::icmp_error((kind, code), from.0, node, &about, 28))
            }
            IpAddr::V6(node) => {
                let (from, to) = frame_v6::ends(answer);
                let about = frame_v6::udp(to, from, b"a question");
                let body = [&[0, 0, 5, 0], &about[ETHERNET..]].concat();
                Some(frame_v6::icmp(1, 0, from.0, node, &body))
            }
        }
    }

    /// Puts the next packet into `frame`.
    pub(crate) fn next(&mut self, frame: &mut Vec<u8>) {
        frame.clear();
        if let Some(answer) = self.answer.take() {
            frame.extend_from_slice(&answer);
            if self.rng.one_in(4) {
                self.change(frame);
                packet::mend(frame);
                frame.truncate(LONGEST);
            }
            return;
        }
        if self.rng.one_in(50) {
            return self.noise(frame);
        }
        let valid: &Vec<u8> = self.rng.choose(&self.valid);
        frame.extend_from_slice(valid);
        self.set_flow(frame);
        let changes = *self.rng.choose(&[0, 0, 1, 1, 1, 2, 2, 3, 5]);
        for _ in 0..changes {
            self.change(frame);
        }
        if !self.rng.one_in(8) {
            packet::mend(frame);
        }
        frame.truncate(LONGEST);
        if frame.len() < SHORTEST {
            frame.resize(SHORTEST, 0);
        }
    }

    /// Bytes that mean nothing, behind an EtherType that often means something.
    fn noise(&mut self, frame: &mut Vec<u8>) {
        let length = SHORTEST + self.rng.below(150);
        frame.extend((0..length).map(|_| self.rng.byte()));
        let ethertype = *self.rng.choose(&[IPV4, IPV6, 0x0806, TAGS[0], 0x88cc]);
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
    }

    /// Another client, and another service, for the outermost packet.
    fn set_flow(&mut self, frame: &mut [u8]) {
        let Some(ip) = packet::layers(frame).first().copied() else {
            return;
        };
        if ip.source == IpAddr::from(CLIENT) {
            frame[ip.start + 15] = self.rng.byte();
        } else if ip.source == IpAddr::from(CLIENT_V6) {
            frame[ip.start + 23] = self.rng.byte();
        }
        if let Some((_, to)) = ip.ports(frame) {
            let from = self.rng.word().to_be_bytes();
            frame[ip.transport..ip.transport + 2].copy_from_slice(&from);
            if to < 10_000 && to != VXLAN && to != GUE {
                let known = self.ports_at.get(&(ip.destination, ip.protocol));
                let known = known.filter(|_| !self.rng.one_in(16));
                let to = self.rng.choose(known.unwrap_or(&self.ports)).to_be_bytes();
                frame[ip.transport + 2..ip.transport + 4].copy_from_slice(&to);
            }
        }
        packet::mend(frame);
    }

    /// Changes one thing, somewhere in the frame or somewhere that matters.
    fn change(&mut self, frame: &mut Vec<u8>) {
        let layers = packet::layers(frame);
        let Some(ip) = layers.get(self.rng.below(layers.len().max(1))).copied() else {
            return self.flip(frame);
        };
        let is_v4 = ip.source.is_ipv4();
        match self.rng.below(20) {
            0 => self.flip(frame),
            1 => {
                let at = self.rng.below(frame.len().min(120));
                frame[at] = self.rng.byte();
            }
            2 => {
                let length = self.rng.below(frame.len());
                frame.truncate(length.max(SHORTEST));
            }
            3 => {
                let more = self.rng.below(64);
                frame.resize(frame.len() + more, 0);
            }
            4 => {
                // The length, by its own header: close to right, or anything.
                let at = ip.start + if is_v4 { 2 } else { 4 };
                let old = u16::from_be_bytes([frame[at], frame[at + 1]]);
                let new = if self.rng.one_in(2) {
                    old.wrapping_add(self.rng.below(64) as u16).wrapping_sub(32)
                } else {
                    self.rng.word()
                };
                frame[at..at + 2].copy_from_slice(&new.to_be_bytes());
            }
            5 => self.set_ports(frame, &ip),
            6 => self.set_address(frame, &ip),
            7 => {
                let tag = *self.rng.choose(&TAGS);
                let [high, low] = tag.to_be_bytes();
                let id = self.rng.word().to_be_bytes();
                frame.splice(12..12, [high, low, id[0], id[1]]);
            }
            8 => self.fragment(frame, &ip),
            9 => self.insert_options(frame, &ip),
            10 => {
                let at = ip.start + if is_v4 { 9 } else { 6 };
                frame[at] = *self
                    .rng
                    .choose(&[0, 1, 4, 6, 17, 41, 43, 44, 47, 58, 60, 132]);
            }
            11 => {
                if ip.protocol == TCP && ip.transport + 14 <= frame.len() {
                    frame[ip.transport + 13] = self.rng.byte();
                }
            }
            12 => {
                let at = ip.start + if is_v4 { 8 } else { 7 };
                frame[at] = self.rng.below(4) as u8;
            }
            13 => self.wrap_vxlan(frame),
            14 => self.wrap_ip(frame, false),
            15 => self.wrap_ip(frame, true),
            16 => {
                // From a node, or for a second time.
                let id = 1 + self.rng.below(3) as u32;
                let source = if self.rng.one_in(2) {
                    mac::of_node(id)
                } else {
                    mac::of_second_chance(id, self.chances())
                };
                frame[6..12].copy_from_slice(&source);
            }
            17 => self.grow(frame, &ip),
            18 => {
                // A TCP header of another length, and so options.
                if ip.protocol == TCP && ip.transport + 13 <= frame.len() {
                    frame[ip.transport + 12] = self.rng.byte() & 0xf0;
                }
            }
            _ => {
                let (from, to) = (ip.transport, ip.end.min(ip.transport + 40));
                if from < to {
                    let at = from + self.rng.below(to - from);
                    frame[at] = self.rng.byte();
                }
            }
        }
    }

    fn flip(&mut self, frame: &mut [u8]) {
        let at = self.rng.below(frame.len().min(160));
        frame[at] ^= 1 << self.rng.below(8);
    }

    fn set_ports(&mut self, frame: &mut [u8], ip: &packet::Ip) {
        if ip.transport + 4 > frame.len() {
            return;
        }
        let [from, to] = [0, 0].map(|_| match self.rng.below(6) {
            0 => VXLAN,
            1 => GUE,
            2 => SERVER_PORT,
            3 => 61_000 + self.rng.below(100) as u16,
            4 => self.rng.word(),
            _ => *self.rng.choose(&self.ports),
        });
        frame[ip.transport..ip.transport + 2].copy_from_slice(&from.to_be_bytes());
        frame[ip.transport + 2..ip.transport + 4].copy_from_slice(&to.to_be_bytes());
    }

    fn set_address(&mut self, frame: &mut [u8], ip: &packet::Ip) {
        let side = self.rng.below(2);
        if ip.source.is_ipv4() {
            let new = self
                .rng
                .choose(&[CLIENT, VIP, NODE_1, NODE_2, POD_1, POD_2])
                .octets();
            let at = ip.start + 12 + 4 * side;
            frame[at..at + 4].copy_from_slice(&new);
        } else {
            let new = self
                .rng
                .choose(&[CLIENT_V6, VIP_V6, POD_1_V6, POD_2_V6])
                .octets();
            let at = ip.start + 8 + 16 * side;
            frame[at..at + 16].copy_from_slice(&new);
        }
    }

    /// Makes the packet look like a part of one.
    fn fragment(&mut self, frame: &mut Vec<u8>, ip: &packet::Ip) {
        let offset = *self.rng.choose(&[0, 0, 1, 2, 185, 8191]);
        let more = self.rng.below(2) as u16;
        let id = self.rng.below(16) as u8;
        if ip.source.is_ipv4() {
            let field = offset | more << 13;
            frame[ip.start + 4..ip.start + 6].copy_from_slice(&[0, id]);
            frame[ip.start + 6..ip.start + 8].copy_from_slice(&u16::to_be_bytes(field));
        } else {
            let [high, low] = u16::to_be_bytes(offset << 3 | more);
            self.insert_header(frame, ip, 44, &[0, 0, high, low, 0, 0, 0, id]);
        }
    }

    /// Options of IPv4, or an extension header of IPv6.
    fn insert_options(&mut self, frame: &mut Vec<u8>, ip: &packet::Ip) {
        if !ip.source.is_ipv4() {
            let kind = *self.rng.choose(&[0, 43, 60]);
            let length = 8 * (1 + self.rng.below(3));
            let mut header = vec![0; length];
            header[1] = (length / 8 - 1) as u8;
            return self.insert_header(frame, ip, kind, &header);
        }
        let words = 1 + self.rng.below(10);
        let old = usize::from(frame[ip.start] & 0xf);
        let new = (old + words).min(15);
        let at = ip.start + 20;
        let options = vec![1; (new - old) * 4];
        let total = (ip.length() + options.len()) as u16;
        frame.splice(at..at, options);
        frame[ip.start] = 0x40 | new as u8;
        frame[ip.start + 2..ip.start + 4].copy_from_slice(&total.to_be_bytes());
    }

    /// Puts an extension header right behind an IPv6 header.
    fn insert_header(&mut self, frame: &mut Vec<u8>, ip: &packet::Ip, kind: u8, header: &[u8]) {
        let at = ip.start + 40;
        let next = frame[ip.start + 6];
        frame.splice(at..at, header.iter().copied());
        frame[at] = next;
        frame[ip.start + 6] = kind;
        let length = (ip.length() - 40 + header.len()) as u16;
        frame[ip.start + 4..ip.start + 6].copy_from_slice(&length.to_be_bytes());
    }

    /// How often a packet may be passed on by the mark in it.
    fn chances(&mut self) -> u32 {
        self.rng.below(mac::SECOND_CHANCES_MAX as usize) as u32
    }

    /// As another node, or somebody who claims to be one, encapsulates it.
    fn wrap_vxlan(&mut self, frame: &mut Vec<u8>) {
        let inner_destination = match self.rng.below(4) {
            0 => mac::of_node(1),
            1 => [self.rng.byte(); 6],
            _ => mac::of_backend(*self.rng.choose(&self.ids)),
        };
        let source = if self.rng.one_in(8) { CLIENT } else { NODE_2 };
        let vni = u32::from(self.rng.one_in(16));
        let destination = if self.rng.one_in(16) { VIP } else { NODE_1 };
        *frame = frame::vxlan(source, destination, vni, inner_destination, frame);
        if self.rng.one_in(2) {
            let id = 1 + self.rng.below(3) as u32;
            frame[56..62].copy_from_slice(&mac::of_second_chance(id, self.chances()));
        }
        // RFC 7348 §4.1.
        frame[40..42].fill(0);
    }

    /// IP in IP, or GUE, as a balancer that is none of ours would.
    fn wrap_ip(&mut self, frame: &mut Vec<u8>, as_gue: bool) {
        let Some((ethertype, start)) = packet::network(frame) else {
            return;
        };
        let protocol = match ethertype {
            IPV4 => IPIP,
            IPV6 => IP6IP,
            _ => return,
        };
        let mut payload = Vec::with_capacity(frame.len() + 12);
        if as_gue {
            let header: &[u8] = if self.rng.one_in(2) {
                &[]
            } else {
                &[0, protocol, 0, 0]
            };
            let length = (8 + header.len() + frame.len() - start) as u16;
            payload.extend([0xc0, 0x01]);
            payload.extend(GUE.to_be_bytes());
            payload.extend(length.to_be_bytes());
            payload.extend([0, 0]);
            payload.extend(header);
        }
        payload.extend(&frame[start..]);
        let protocol = if as_gue { UDP } else { protocol };
        *frame = if self.rng.one_in(4) {
            let to = *self.rng.choose(&[NODE_1_V6, NODE_1_V6, VIP_V6, POD_1_V6]);
            frame_v6::ipv6(CLIENT_V6, to, protocol, &payload)
        } else {
            let to = *self.rng.choose(&[NODE_1, NODE_1, VIP, POD_1]);
            frame::ipv4(*self.rng.choose(&[CLIENT, NODE_2]), to, protocol, &payload)
        };
    }

    /// Lets the outermost packet's payload grow, often to what just fits or just does not.
    fn grow(&mut self, frame: &mut Vec<u8>, ip: &packet::Ip) {
        if packet::network(frame).is_none_or(|(_, start)| start != ip.start)
            || frame.len() != ip.end
        {
            return;
        }
        let sizes = [
            MTU,
            MTU - 1,
            MTU - 20,
            MTU - 28,
            MTU - 36,
            MTU - 50,
            MTU - 51,
            MTU - 70,
            1280,
        ];
        let length = *self.rng.choose(&sizes);
        if length <= ip.length() {
            return;
        }
        frame.resize(ip.start + length, 0x5a);
        let (at, value) = if ip.source.is_ipv4() {
            (ip.start + 2, length)
        } else {
            (ip.start + 4, length - 40)
        };
        frame[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
    }
}

/// A packet of each kind, right in every way.
fn valid_packets() -> Vec<Vec<u8>> {
    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
    const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 9);
    let mut packets = Vec::new();
    let flags = [SYN, ACK, ACK, SYN | ACK, FIN | ACK, RST];
    for flags in flags {
        for (from, to) in [
            (CLIENT, VIP),
            (CLIENT, VIP),
            (CLIENT, NODE_1),
            (POD_1, CLIENT),
            (POD_1, POD_2),
            (POD_2, POD_1),
            (POD_1, OUTSIDE),
        ] {
            packets.push(frame::tcp((from, 40_000), (to, 80), flags, b"a payload"));
        }
        for (from, to) in [
            (CLIENT_V6, VIP_V6),
            (CLIENT_V6, VIP_V6),
            (POD_1_V6, CLIENT_V6),
            (POD_1_V6, POD_2_V6),
            (POD_1_V6, OUTSIDE_V6),
        ] {
            packets.push(frame_v6::tcp((from, 40_000), (to, 80), flags, b"a payload"));
        }
    }
    // What a pod answers, which finds a note if the flow that it answers was delivered.
    packets.push(frame::tcp((POD_1, 8080), (CLIENT, 40_000), ACK, b"answer"));
    packets.push(frame_v6::tcp(
        (POD_1_V6, 8080),
        (CLIENT_V6, 40_000),
        ACK,
        b"answer",
    ));
    // A SYN with the options that systems send: segment size, SACK, timestamps, window scale.
    let mut options = frame::tcp(
        (CLIENT, 40_000),
        (VIP, 80),
        SYN,
        &[
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
        ],
    );
    options[frame::TRANSPORT + 12] = 10 << 4;
    packet::mend(&mut options);
    packets.push(options);
    for (from, to) in [
        (CLIENT, VIP),
        (CLIENT, VIP),
        (POD_1, OUTSIDE),
        (POD_1, CLIENT),
    ] {
        packets.push(frame::udp((from, 40_000), (to, 53), b"a question"));
        packets.push(frame::echo(8, from, to, 7));
        packets.push(frame::echo(0, from, to, 7));
    }
    for (from, to) in [
        (CLIENT_V6, VIP_V6),
        (CLIENT_V6, VIP_V6),
        (POD_1_V6, OUTSIDE_V6),
    ] {
        packets.push(frame_v6::udp((from, 40_000), (to, 53), b"a question"));
        packets.push(frame_v6::echo(frame_v6::ECHO_REQUEST, from, to, 7));
    }
    errors(&mut packets);
    tunnels(&mut packets);
    let to_vip = frame::tcp((CLIENT, 40_000), (VIP, 81), ACK, b"a payload");
    let to_vip_v6 = frame_v6::tcp((CLIENT_V6, 40_000), (VIP_V6, 81), ACK, b"a payload");
    for (id, inner) in [(101, &to_vip), (111, &to_vip_v6), (102, &to_vip)] {
        packets.push(frame::vxlan(NODE_2, NODE_1, 0, mac::of_backend(id), inner));
    }
    let to_pod = frame::tcp((POD_2, 40_000), (POD_1, 8080), ACK, b"a payload");
    packets.push(frame::vxlan(NODE_2, NODE_1, 0, mac::of_node(1), &to_pod));
    packets.push(discovery());
    packets.push(arp());
    packets
}

/// What other balancers encapsulate for VIPs, in IP in IP and GUE of both variants.
fn tunnels(packets: &mut Vec<Vec<u8>>) {
    for port in [80, 81, 82, 1000] {
        for flags in [SYN, ACK] {
            let inner = [
                (
                    IPIP,
                    frame::tcp((CLIENT, 40_000), (VIP, port), flags, b"a payload"),
                ),
                (
                    IP6IP,
                    frame_v6::tcp((CLIENT_V6, 40_000), (VIP_V6, port), flags, b"a payload"),
                ),
            ];
            for (held, inner) in inner {
                let packet = &inner[ETHERNET..];
                let variant_0 = [&[0, held, 0, 0], packet].concat();
                packets.push(frame::ipv4(CLIENT, NODE_1, held, packet));
                packets.push(frame_v6::ipv6(CLIENT_V6, NODE_1_V6, held, packet));
                for held in [packet, &variant_0] {
                    packets.push(frame::udp((CLIENT, 50_000), (NODE_1, GUE), held));
                    packets.push(frame_v6::udp((CLIENT_V6, 50_000), (NODE_1_V6, GUE), held));
                }
            }
        }
    }
}

/// ICMP errors about what the VIP's backends sent, and about what pods sent.
fn errors(packets: &mut Vec<Vec<u8>>) {
    let router = Ipv4Addr::new(198, 18, 0, 1);
    let router_v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let kinds = [(3, 4), (3, 1), (3, 3), (11, 0), (12, 0)];
    for kind in kinds {
        for port in [80, 81, 82, 1000, 1009] {
            let about = frame::tcp((VIP, port), (CLIENT, 40_000), ACK, &[0; 20]);
            packets.push(frame::icmp_error(kind, router, VIP, &about, 28));
            packets.push(frame::icmp_error(kind, router, VIP, &about, 60));
        }
        let about = frame::tcp((CLIENT, 40_000), (POD_1, 8080), ACK, &[0; 20]);
        packets.push(frame::icmp_error(kind, POD_1, CLIENT, &about, 48));
    }
    for (kind, code) in [(1, 0), (1, 4), (2, 0), (3, 0), (4, 1)] {
        for port in [80, 81, 82] {
            let about = frame_v6::tcp((VIP_V6, port), (CLIENT_V6, 40_000), ACK, &[0; 20]);
            let body = [&[0, 0, 5, 0], &about[ETHERNET..]].concat();
            packets.push(frame_v6::icmp(kind, code, router_v6, VIP_V6, &body));
        }
    }
}

/// A neighbour solicitation for the VIP (RFC 4861 §4.3).
fn discovery() -> Vec<u8> {
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    let body = [&[0; 4][..], &VIP_V6.octets(), &[1, 1, 2, 0, 0, 0, 0, 1]].concat();
    frame_v6::icmp(135, 0, CLIENT_V6, group, &body)
}

/// Who has the VIP? (RFC 826)
fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(frame::ROUTER_MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(frame::ROUTER_MAC);
    frame.extend(CLIENT.octets());
    frame.extend([0; 6]);
    frame.extend(VIP.octets());
    frame
}
