//! Fragments (RFC 791 §3.2, RFC 8200 §4.5): only the first shows its ports, which are noted for the
//! others. Nothing is put together, and nothing is kept waiting: a fragment that overtakes the first
//! belongs to nobody.

use aya_ebpf::bindings::BPF_ANY;
use fairlead_dataplane_common::{DropReason, FlowKey, FragmentKey, FragmentPorts, protocol};

use crate::frame::Frame;
use crate::header::{self, Fragment, Icmp, Ipv4, NETWORK, TRANSPORT_V4, Tcp, Udp};
use crate::maps::FRAGMENTS;
use crate::parse::{Family, Packet, Shape};

/// Offset of the transport header in a first fragment of IPv6.
pub const TRANSPORT_V6: usize = header::TRANSPORT_V6 + size_of::<Fragment>();

/// Offset of the transport header in a first fragment.
#[inline(always)]
const fn transport(family: Family) -> usize {
    match family {
        Family::V4 => TRANSPORT_V4,
        Family::V6 => TRANSPORT_V6,
    }
}

/// The flow that a fragment belongs to. Nothing if its protocol has no ports, or if it is a later one
/// of a packet whose first was not noted.
#[inline(always)]
pub fn flow<F: Frame>(frame: &F, packet: &Packet) -> Result<Option<FlowKey>, DropReason> {
    if packet.shape == Shape::FirstFragment {
        first(frame, packet)
    } else {
        later(frame, packet)
    }
}

/// The flow that a first fragment belongs to. Nothing if its protocol has no ports.
///
/// The whole transport header has to be there (RFC 3128, RFC 7112): no sender splits it but to get
/// past somebody.
#[inline(always)]
pub fn first<F: Frame>(frame: &F, packet: &Packet) -> Result<Option<FlowKey>, DropReason> {
    let transport = transport(packet.family);
    let icmp: *mut Icmp = frame.header(transport)?;
    // SAFETY: in bounds, as `header` has checked, and any bytes are headers.
    let icmp = unsafe { *icmp };
    let mut flow = packet.flow;
    let size = match (packet.family, packet.flow.protocol, icmp.kind) {
        (_, protocol::TCP | protocol::UDP, _) => {
            // The ports of TCP are where those of UDP are, and where an echo's type is.
            let ports: *mut Udp = frame.header(transport)?;
            // SAFETY: as above.
            let ports = unsafe { *ports };
            flow.source_port_be = ports.source_be;
            flow.destination_port_be = ports.destination_be;
            if flow.protocol == protocol::TCP {
                let _whole: *mut Tcp = frame.header(transport)?;
                size_of::<Tcp>()
            } else {
                size_of::<Udp>()
            }
        }
        (Family::V4, protocol::ICMP, Icmp::ECHO_REQUEST | Icmp::ECHO_REPLY) => {
            flow.source_port_be = icmp.identifier;
            flow.destination_port_be = icmp.identifier;
            size_of::<Icmp>()
        }
        _ => return Ok(None),
    };
    if (packet.length as usize) < transport - NETWORK + size {
        return Err(DropReason::Malformed);
    }
    Ok(Some(flow))
}

/// Notes the ports of `flow`, to which a fragment belongs, if it is the first.
#[inline(always)]
pub fn note<F: Frame>(frame: &F, packet: &Packet, flow: &FlowKey) -> Result<(), DropReason> {
    if packet.shape != Shape::FirstFragment {
        return Ok(());
    }
    let key = key(frame, packet)?;
    let ports = FragmentPorts {
        source_port_be: flow.source_port_be,
        destination_port_be: flow.destination_port_be,
    };
    // An LRU map makes room; should it not, the later fragments are dropped.
    let _ = FRAGMENTS.insert(&key, &ports, u64::from(BPF_ANY));
    Ok(())
}

/// The flow that a later fragment belongs to, if the first was noted.
#[inline(always)]
fn later<F: Frame>(frame: &F, packet: &Packet) -> Result<Option<FlowKey>, DropReason> {
    let key = key(frame, packet)?;
    // SAFETY: four bytes, which are copied at once; a packet with the same identification that
    // follows this one may replace them, which no reader of fragments can tell.
    let Some(ports) = (unsafe { FRAGMENTS.get(&key) }) else {
        return Ok(None);
    };
    let mut flow = packet.flow;
    flow.source_port_be = ports.source_port_be;
    flow.destination_port_be = ports.destination_port_be;
    Ok(Some(flow))
}

#[inline(always)]
fn key<F: Frame>(frame: &F, packet: &Packet) -> Result<FragmentKey, DropReason> {
    let identification = match packet.family {
        Family::V4 => {
            let ip: *mut Ipv4 = frame.header(NETWORK)?;
            // SAFETY: in bounds, as `header` has checked.
            u32::from(unsafe { (*ip).identification })
        }
        Family::V6 => {
            let header: *mut Fragment = frame.header(header::TRANSPORT_V6)?;
            // SAFETY: as above.
            unsafe { (*header).identification }
        }
    };
    Ok(FragmentKey {
        source: packet.flow.source,
        destination: packet.flow.destination,
        vpc: packet.flow.vpc,
        identification,
        protocol: packet.flow.protocol,
        padding: [0; 3],
    })
}

/// Why a fragment is dropped whose flow is not known.
#[inline(always)]
pub fn unknown(packet: &Packet) -> DropReason {
    if packet.shape == Shape::FirstFragment {
        DropReason::UnsupportedProtocol
    } else {
        DropReason::FragmentUnknown
    }
}
