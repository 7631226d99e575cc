//! What is measured.

use std::net::Ipv4Addr;

use packet_tests::CLIENT;
use packet_tests::frame::{self, ACK, SYN};

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

/// One case.
pub(crate) struct Case {
    /// As it is called in tables and JSON.
    pub(crate) name: &'static str,
    /// The program that runs.
    pub(crate) program: &'static str,
    /// The packet.
    pub(crate) frame: Vec<u8>,
    /// What has to come out, or the figure would mean something else.
    pub(crate) action: Action,
}

/// All cases, for a node with this many services. The packets are for the last of them.
pub(crate) fn all(services: u32) -> Vec<Case> {
    let vip = services::vip(services - 1);
    let elsewhere = Ipv4Addr::new(198, 18, 0, 50);
    let payload = [0x5a; 10];
    let tcp = |to: Ipv4Addr, flags, payload: &[u8]| {
        frame::tcp((CLIENT, 40_000), (to, services::PORT), flags, payload)
    };
    vec![
        Case {
            name: "floor",
            program: "xdp_floor",
            frame: tcp(elsewhere, ACK, &payload),
            action: Action::Drop,
        },
        Case {
            name: "pass",
            program: "xdp_measured",
            frame: tcp(elsewhere, ACK, &payload),
            action: Action::Pass,
        },
        Case {
            name: "established_tun",
            program: "xdp_measured",
            frame: tcp(vip, ACK, &payload),
            action: Action::Tx,
        },
        Case {
            name: "syn_tun",
            program: "xdp_measured",
            frame: tcp(vip, SYN, b""),
            action: Action::Tx,
        },
    ]
}
