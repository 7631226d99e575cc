//! Changing one end of a flow in an skb's headers, by the kernel's own checksum helpers: they know
//! whether the checksum is complete, partial (to be finished by the device) or absent.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::programs::TcContext;
use fairlead_dataplane_common::{DropReason, protocol};

use crate::header::{Icmp, Ipv4, TRANSPORT, Tcp, Udp};

/// Which end of the flow is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Who sends.
    Source,
    /// Who receives.
    Destination,
}

/// One end of an IPv4 flow, as on the wire.
#[derive(Clone, Copy)]
pub struct Peer {
    /// The address.
    pub address: u32,
    /// The port, or the identifier of ICMP echo.
    pub port_be: u16,
}

/// Puts `new` where `old` is, at `end`, and keeps the checksums right. The packet's shape has to be
/// one with ports or an echo. Pointers into the packet are invalid afterwards.
#[inline(always)]
pub fn replace(
    ctx: &TcContext,
    protocol: u8,
    end: End,
    old: Peer,
    new: Peer,
) -> Result<(), DropReason> {
    try_replace(ctx, protocol, end, old, new).map_err(|_| DropReason::RewriteFailed)
}

#[inline(always)]
fn try_replace(
    ctx: &TcContext,
    protocol: u8,
    end: End,
    old: Peer,
    new: Peer,
) -> Result<(), aya_ebpf::cty::c_long> {
    let (address, port) = match end {
        End::Source => (Ipv4::SOURCE, TRANSPORT),
        End::Destination => (Ipv4::DESTINATION, TRANSPORT + 2),
    };
    let (old_address, new_address) = (u64::from(old.address), u64::from(new.address));
    let (old_port, new_port) = (u64::from(old.port_be), u64::from(new.port_be));
    // The transport checksum covers the address (by the pseudo header) and the port; that of ICMP
    // covers only the identifier.
    let port = match protocol {
        protocol::TCP => {
            let pseudo = u64::from(BPF_F_PSEUDO_HDR);
            ctx.l4_csum_replace(Tcp::CHECKSUM, old_address, new_address, pseudo | 4)?;
            ctx.l4_csum_replace(Tcp::CHECKSUM, old_port, new_port, 2)?;
            port
        }
        protocol::UDP => {
            let (pseudo, udp) = (u64::from(BPF_F_PSEUDO_HDR), u64::from(BPF_F_MARK_MANGLED_0));
            ctx.l4_csum_replace(Udp::CHECKSUM, old_address, new_address, pseudo | udp | 4)?;
            ctx.l4_csum_replace(Udp::CHECKSUM, old_port, new_port, udp | 2)?;
            port
        }
        _ => {
            ctx.l4_csum_replace(Icmp::CHECKSUM, old_port, new_port, 2)?;
            Icmp::IDENTIFIER
        }
    };
    ctx.store(port, &new.port_be, 0)?;
    ctx.l3_csum_replace(Ipv4::CHECKSUM, old_address, new_address, 4)?;
    ctx.store(address, &new.address, 0)
}
