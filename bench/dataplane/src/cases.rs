//! What is measured with every number of services.

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

/// A program of the measured object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Does nothing.
    Floor,
    /// Makes each packet another flow's, and nothing else.
    FloorFlows,
    /// Puts headers back, and does nothing else.
    FloorPutBack,
    /// Balances, and restores what dr or VXLAN over IPv4 changed.
    Restored,
    /// The same, each packet being another flow's.
    RestoredFlows,
    /// Balances, and puts all headers back.
    PutBack,
}

impl Program {
    /// As the object calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Floor => "xdp_floor",
            Self::FloorFlows => "xdp_floor_flows",
            Self::FloorPutBack => "xdp_floor_rewritten",
            Self::Restored => "xdp_measured",
            Self::RestoredFlows => "xdp_measured_flows",
            Self::PutBack => "xdp_rewritten",
        }
    }

    /// How the frame becomes again what it was, in a word.
    pub(crate) const fn method(self) -> &'static str {
        match self {
            Self::Floor | Self::FloorFlows => "none",
            Self::Restored | Self::RestoredFlows => "restored",
            Self::FloorPutBack | Self::PutBack => "put back",
        }
    }
}

/// Flows of the cases with many: every source port.
pub(crate) const FLOWS: u32 = 65_536;

/// One case.
#[derive(Clone)]
pub(crate) struct Case {
    /// As it is called in tables and JSON.
    pub(crate) name: &'static str,
    /// The address family of the packet.
    pub(crate) family: &'static str,
    /// What runs.
    pub(crate) program: Program,
    /// Flows that its packets belong to.
    pub(crate) flows: u32,
    /// The packet.
    pub(crate) frame: Vec<u8>,
    /// What has to come out, or the figure would mean something else.
    pub(crate) action: Action,
    /// How many of its flows have to be noted in the end, which must not be more or less either. Where
    /// all of many are, they are forgotten before each trial, so that every packet begins one.
    pub(crate) noted: u32,
    /// The case that it is compared with, to say what its feature costs.
    pub(crate) over: Option<&'static str>,
}

impl Case {
    pub(crate) fn new(
        name: &'static str,
        family: &'static str,
        frame: Vec<u8>,
        action: Action,
    ) -> Self {
        Self {
            name,
            family,
            program: Program::Restored,
            flows: 1,
            frame,
            action,
            noted: 0,
            over: None,
        }
    }

    /// The same for packets of many flows: the wrapper gives each packet another source port. Nothing
    /// if the case's program cannot.
    fn of_many_flows(&self) -> Option<Self> {
        let program = match self.program {
            Program::Floor => Program::FloorFlows,
            Program::Restored => Program::RestoredFlows,
            _ => return None,
        };
        Some(Self {
            program,
            flows: FLOWS,
            ..self.clone()
        })
    }
}

pub(crate) const V4: &str = "ipv4";
pub(crate) const V6: &str = "ipv6";

/// Data of a segment: enough for a frame to have all bytes that are put back.
pub(crate) const DATA: [u8; 10] = [0x5a; 10];

/// All cases, for a node with this many services. The packets are for the last of them.
pub(crate) fn all(services: u32) -> Vec<Case> {
    let vip = services::vip(services - 1);
    let vip_v6 = services::vip_v6(services - 1);
    let elsewhere = Ipv4Addr::new(198, 18, 0, 50);
    let elsewhere_v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x50);
    let data = |flags| if flags & SYN != 0 { &[][..] } else { &DATA };
    let tcp = |to, port, flags| frame::tcp((CLIENT, 40_000), (to, port), flags, data(flags));
    let tcp_v6 =
        |to, port, flags| frame_v6::tcp((CLIENT_V6, 40_000), (to, port), flags, data(flags));
    let floor = Case {
        program: Program::Floor,
        ..Case::new(
            "floor",
            V4,
            tcp(elsewhere, services::PORT, ACK),
            Action::Drop,
        )
    };
    let pass = [
        (V4, tcp(elsewhere, services::PORT, ACK)),
        (V6, tcp_v6(elsewhere_v6, services::PORT, ACK)),
    ];
    let balanced = [
        ("established_dr", services::PORT_DR, ACK),
        ("syn_dr", services::PORT_DR, SYN),
        ("established_tun", services::PORT, ACK),
        ("syn_tun", services::PORT, SYN),
        ("established_nat", services::PORT_NAT, ACK),
    ];
    let mut cases = vec![floor];
    for (family, frame) in pass {
        cases.push(Case::new("pass", family, frame, Action::Pass));
    }
    for (name, port, flags) in balanced {
        for (family, frame) in [
            (V4, tcp(vip, port, flags)),
            (V6, tcp_v6(vip_v6, port, flags)),
        ] {
            let mut case = Case::new(name, family, frame, Action::Tx);
            if port == services::PORT_NAT {
                // Ports and addresses of either end become others.
                case.program = Program::PutBack;
                case.noted = 1;
            }
            cases.push(case);
        }
    }
    let many: Vec<Case> = cases.iter().filter_map(Case::of_many_flows).collect();
    cases.extend(many);
    cases
}
