//! Changing one end of a flow in an skb's headers, by the kernel's own checksum helpers: they know
//! whether the checksum is complete, partial (to be finished by the device) or absent.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::cty::c_long;
use aya_ebpf::programs::TcContext;
use fairlead_dataplane_common::{Address, DropReason, FlowKey, checksum, protocol};

use crate::fragment;
use crate::frame::Frame;
use crate::header::{Icmp, Ipv4, Ipv6, NETWORK, Tcp, Udp};
use crate::parse::{Family, Packet, Shape};

/// Which end of the flow is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Who sends.
    Source,
    /// Who receives.
    Destination,
}

/// One end of a flow, as on the wire.
#[derive(Clone, Copy)]
pub struct Peer {
    /// The address, of the packet's family.
    pub address: Address,
    /// The port, or the identifier of ICMP echo.
    pub port_be: u16,
}

impl Peer {
    /// The one at `end` of a flow.
    #[inline(always)]
    pub fn of_flow(flow: &FlowKey, end: End) -> Self {
        match end {
            End::Source => Self {
                address: flow.source,
                port_be: flow.source_port_be,
            },
            End::Destination => Self {
                address: flow.destination,
                port_be: flow.destination_port_be,
            },
        }
    }
}

/// Puts `new` in place of `old` at `end` of the packet, and keeps the checksums right. The packet's
/// shape has to be one with ports or an echo, or it is a fragment: a later one shows no ports.
/// Pointers into the packet are invalid afterwards.
#[inline(always)]
pub fn replace(
    ctx: &TcContext,
    packet: &Packet,
    end: End,
    old: Peer,
    new: Peer,
) -> Result<(), DropReason> {
    if !packet.family.has(&new.address) {
        return Err(DropReason::FamilyMismatch);
    }
    let replaced = match packet.shape {
        // The checksum of IPv4's header makes up for the address; IPv6 has none, and the device's sum
        // of the whole packet has to be changed.
        Shape::LaterFragment => {
            store_address(ctx, packet.family, end, &old, &new, BPF_F_RECOMPUTE_CSUM)
        }
        // In IPv4 the ports are where they always are.
        Shape::FirstFragment if packet.family == Family::V6 => {
            try_replace(ctx, packet, fragment::TRANSPORT_V6, end, old, new)
        }
        _ => try_replace(ctx, packet, packet.family.transport(), end, old, new),
    };
    replaced.map_err(|_| DropReason::RewriteFailed)
}

#[inline(always)]
fn try_replace(
    ctx: &TcContext,
    packet: &Packet,
    transport: usize,
    end: End,
    old: Peer,
    new: Peer,
) -> Result<(), c_long> {
    let family = packet.family;
    let port = match end {
        End::Source => transport,
        End::Destination => transport + 2,
    };
    let (old_port, new_port) = (u64::from(old.port_be), u64::from(new.port_be));
    // The transport checksum covers the address (by the pseudo header) and the port; that of ICMP
    // covers only the identifier, but that of ICMPv6 the address as well.
    let (check, flags, port) = match packet.flow.protocol {
        protocol::TCP => (Tcp::CHECKSUM, 0, port),
        protocol::UDP => (Udp::CHECKSUM, u64::from(BPF_F_MARK_MANGLED_0), port),
        _ => (Icmp::CHECKSUM, 0, transport + Icmp::IDENTIFIER),
    };
    let check = transport + check;
    if packet.flow.protocol != protocol::ICMP {
        replace_address(ctx, family, check, &old.address, &new.address, flags)?;
    }
    ctx.l4_csum_replace(check, old_port, new_port, flags | 2)?;
    ctx.store(port, &new.port_be, 0)?;
    store_address(ctx, family, end, &old, &new, 0)
}

/// Writes the address of `new` over that of `old`. `flags_v6` are those of the write in IPv6.
#[inline(always)]
fn store_address(
    ctx: &TcContext,
    family: Family,
    end: End,
    old: &Peer,
    new: &Peer,
    flags_v6: u32,
) -> Result<(), c_long> {
    let flags = u64::from(flags_v6);
    match (family, end) {
        (Family::V4, _) => {
            let (old, new) = (old.address.v4_word(), new.address.v4_word());
            ctx.l3_csum_replace(Ipv4::CHECKSUM, u64::from(old), u64::from(new), 4)?;
            let at = match end {
                End::Source => Ipv4::SOURCE,
                End::Destination => Ipv4::DESTINATION,
            };
            ctx.store(at, &new, 0)
        }
        (Family::V6, End::Source) => ctx.store(Ipv6::SOURCE, &new.address.words, flags),
        (Family::V6, End::Destination) => ctx.store(Ipv6::DESTINATION, &new.address.words, flags),
    }
}

/// Takes a hop off a packet that is routed here.
#[inline(always)]
pub fn take_hop(ctx: &TcContext, family: Family) -> Result<(), DropReason> {
    let taken = match family {
        Family::V4 => {
            let ip: *mut Ipv4 = ctx.header(NETWORK)?;
            // SAFETY: in bounds, as `header` has checked.
            let (ttl, protocol) = unsafe { ((*ip).ttl, (*ip).protocol) };
            if ttl <= 1 {
                return Err(DropReason::HopLimit);
            }
            let old = u64::from(u16::from_ne_bytes([ttl, protocol]));
            let new = u64::from(u16::from_ne_bytes([ttl - 1, protocol]));
            ctx.l3_csum_replace(Ipv4::CHECKSUM, old, new, 2)
                .and_then(|()| ctx.store(Ipv4::TTL_OFFSET, &(ttl - 1), 0))
        }
        Family::V6 => {
            let ip: *mut Ipv6 = ctx.header(NETWORK)?;
            // SAFETY: as above.
            let hop_limit = unsafe { (*ip).hop_limit };
            if hop_limit <= 1 {
                return Err(DropReason::HopLimit);
            }
            let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
            ctx.store(Ipv6::HOP_LIMIT, &(hop_limit - 1), flags)
        }
    };
    taken.map_err(|_| DropReason::RewriteFailed)
}

/// The same in an ICMP error: the address `old` at `end` of the error itself, and the address and
/// port `old` at the other end of the packet it quotes.
#[inline(always)]
pub fn replace_error(
    ctx: &TcContext,
    packet: &Packet,
    end: End,
    old: Peer,
    new: Peer,
) -> Result<(), DropReason> {
    replace_quoted(ctx, packet, end, old, new)?;
    try_replace_outer(ctx, packet.family, end, old, new).map_err(|_| DropReason::RewriteFailed)
}

/// The same in the packet alone that an ICMP error quotes: who reports it is neither of its ends.
#[inline(always)]
pub fn replace_quoted(
    ctx: &TcContext,
    packet: &Packet,
    end: End,
    old: Peer,
    new: Peer,
) -> Result<(), DropReason> {
    if !packet.family.has(&new.address) {
        return Err(DropReason::FamilyMismatch);
    }
    try_replace_quoted(ctx, packet.family, end, old, new).map_err(|_| DropReason::RewriteFailed)
}

#[inline(always)]
fn try_replace_outer(
    ctx: &TcContext,
    family: Family,
    end: End,
    old: Peer,
    new: Peer,
) -> Result<(), c_long> {
    if family == Family::V6 {
        // IPv4's message does not cover the addresses.
        let check = family.transport() + Icmp::CHECKSUM;
        replace_address(ctx, family, check, &old.address, &new.address, 0)?;
    }
    store_address(ctx, family, end, &old, &new, 0)
}

#[inline(always)]
fn try_replace_quoted(
    ctx: &TcContext,
    family: Family,
    end: End,
    old: Peer,
    new: Peer,
) -> Result<(), c_long> {
    let check = family.transport() + Icmp::CHECKSUM;
    // From a field of the error's own IP header to the same field of the quoted one.
    let quoted = family.quoted_transport() - family.transport();
    let (old_port, new_port) = (u64::from(old.port_be), u64::from(new.port_be));
    ctx.l4_csum_replace(check, old_port, new_port, 2)?;
    let port = match end {
        End::Source => family.quoted_transport() + 2,
        End::Destination => family.quoted_transport(),
    };
    ctx.store(port, &new.port_be, 0)?;
    let other = match (family, end) {
        (Family::V4, End::Source) => Ipv4::DESTINATION,
        (Family::V4, End::Destination) => Ipv4::SOURCE,
        (Family::V6, End::Source) => Ipv6::DESTINATION,
        (Family::V6, End::Destination) => Ipv6::SOURCE,
    };
    if family == Family::V4 {
        let (old, new) = (old.address.v4_word(), new.address.v4_word());
        // The quoted header's checksum makes up for its address: the message's stays.
        let check = Ipv4::CHECKSUM + quoted;
        ctx.l3_csum_replace(check, u64::from(old), u64::from(new), 4)?;
        return ctx.store(other + quoted, &new, 0);
    }
    let difference = checksum::difference(old.address.sum(), new.address.sum());
    ctx.l4_csum_replace(check, 0, u64::from(difference), 0)?;
    ctx.store(other + quoted, &new.address.words, 0)
}

/// Updates a checksum that covers a pseudo header.
#[inline(always)]
fn replace_address(
    ctx: &TcContext,
    family: Family,
    check: usize,
    old: &Address,
    new: &Address,
    flags: u64,
) -> Result<(), c_long> {
    /// `BPF_F_IPV6` of linux/bpf.h: a sum the device made of the whole packet stays as it is,
    /// because no header checksum makes up for the address.
    const BPF_F_IPV6: u64 = 1 << 7;
    let flags = flags | u64::from(BPF_F_PSEUDO_HDR);
    if family == Family::V4 {
        let (old, new) = (u64::from(old.v4_word()), u64::from(new.v4_word()));
        return ctx.l4_csum_replace(check, old, new, flags | 4);
    }
    let difference = u64::from(checksum::difference(old.sum(), new.sum()));
    // Kernels before 6.16 refuse the flag, unless the fix that brought it was carried back to them.
    ctx.l4_csum_replace(check, 0, difference, flags | BPF_F_IPV6)
        .or_else(|_| ctx.l4_csum_replace(check, 0, difference, flags))
}
