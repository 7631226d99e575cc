//! What is measured.

use std::net::{Ipv4Addr, Ipv6Addr};

use packet_tests::frame::{self, ACK, SYN};
use packet_tests::{CLIENT, CLIENT_V6, frame_v6};

use crate::services;

/// `enum xdp_action` of linux/bpf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Action {
    /// `XDP_DROP`.
    Drop = 1,
    /// `XDP_PASS`.
    Pass = 2,
    /// `XDP_TX`.
    Tx = 3,
}

/// Flows of the cases with many: every source port.
const FLOWS: u32 = 65_536;

/// One case.
pub(crate) struct Case {
    /// As it is called in tables and JSON.
    pub(crate) name: &'static str,
    /// The address family of the packet.
    pub(crate) family: &'static str,
    /// The program that runs.
    pub(crate) program: &'static str,
    /// Flows that its packets belong to.
    pub(crate) flows: u32,
    /// The packet.
    pub(crate) frame: Vec<u8>,
    /// What has to come out, or the figure would mean something else.
    pub(crate) action: Action,
}

/// All cases, for a node with this many services. The packets are for the last of them.
pub(crate) fn all(services: u32) -> Vec<Case> {
    let vip = services::vip(services - 1);
    let vip_v6 = services::vip_v6(services - 1);
    let elsewhere = Ipv4Addr::new(198, 18, 0, 50);
    let payload = [0x5a; 10];
    let tcp_to = |to: Ipv4Addr, port, flags, payload: &[u8]| {
        frame::tcp((CLIENT, 40_000), (to, port), flags, payload)
    };
    let tcp_v6_to = |to: Ipv6Addr, port, flags, payload: &[u8]| {
        frame_v6::tcp((CLIENT_V6, 40_000), (to, port), flags, payload)
    };
    let tcp = |to, flags, payload: &[u8]| tcp_to(to, services::PORT, flags, payload);
    let tcp_dr = |flags, payload: &[u8]| tcp_to(vip, services::PORT_DR, flags, payload);
    let tcp_v6 = |to, flags, payload: &[u8]| tcp_v6_to(to, services::PORT, flags, payload);
    let tcp_v6_dr = |flags, payload: &[u8]| tcp_v6_to(vip_v6, services::PORT_DR, flags, payload);
    let elsewhere_v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x50);
    let case = |name, family, frame, action| Case {
        name,
        family,
        program: "xdp_measured",
        flows: 1,
        frame,
        action,
    };
    let (v4, v6) = ("ipv4", "ipv6");
    let mut cases = vec![
        Case {
            program: "xdp_floor",
            ..case("floor", v4, tcp(elsewhere, ACK, &payload), Action::Drop)
        },
        case("pass", v4, tcp(elsewhere, ACK, &payload), Action::Pass),
        case("established_dr", v4, tcp_dr(ACK, &payload), Action::Tx),
        case("syn_dr", v4, tcp_dr(SYN, b""), Action::Tx),
        case("established_tun", v4, tcp(vip, ACK, &payload), Action::Tx),
        case("syn_tun", v4, tcp(vip, SYN, b""), Action::Tx),
        case(
            "pass",
            v6,
            tcp_v6(elsewhere_v6, ACK, &payload),
            Action::Pass,
        ),
        case("established_dr", v6, tcp_v6_dr(ACK, &payload), Action::Tx),
        case("syn_dr", v6, tcp_v6_dr(SYN, b""), Action::Tx),
        case(
            "established_tun",
            v6,
            tcp_v6(vip_v6, ACK, &payload),
            Action::Tx,
        ),
        case("syn_tun", v6, tcp_v6(vip_v6, SYN, b""), Action::Tx),
    ];
    let many: Vec<Case> = cases.iter().map(of_many_flows).collect();
    cases.extend(many);
    cases
}

/// The same for packets of many flows: the wrapper gives each packet another source port.
fn of_many_flows(case: &Case) -> Case {
    Case {
        program: match case.program {
            "xdp_floor" => "xdp_floor_flows",
            _ => "xdp_measured_flows",
        },
        flows: FLOWS,
        frame: case.frame.clone(),
        ..*case
    }
}
