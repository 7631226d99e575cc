//! Packets become what their translation says: addresses, ports and checksums, one hop on.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::programs::{TcContext, XdpContext};
use fairlead_dataplane_common::{Address, DropReason, FlowKey, checksum, protocol};

use super::{error, translation};
use crate::frame::Frame;
use crate::header::{Ipv4, Ipv6, NETWORK, Tcp, Udp};
use crate::parse::{Family, Packet, Shape};
use crate::rewrite::{self, End, Peer};
use crate::verdict::{Pack, Packed, Unpack};
use crate::{fragment, lookup, mss, parse};

/// Makes the frame at hand what [`Translation`](super::Translation) says. A first fragment is noted.
#[inline(never)]
#[unsafe(export_name = "nat_translate")]
pub extern "C" fn translate(ctx: *mut xdp_md) -> Packed {
    let ctx = &XdpContext::new(ctx);
    parse::of(ctx, 0)
        .and_then(|packet| try_translate(ctx, &packet))
        .pack()
}

#[inline(always)]
fn try_translate(ctx: &XdpContext, packet: &Packet) -> Result<u32, DropReason> {
    let translation = translation()?;
    let (old, new) = (&translation.old, &translation.new);
    let family = packet.family;
    if packet.shape == Shape::Error {
        error::translate(ctx, packet, old, new)?;
        return Ok(0);
    }
    fragment::note(ctx, packet, old)?;
    let before = old.source.sum() + old.destination.sum();
    let after = new.source.sum() + new.destination.sum();
    route(ctx, family, before, after, (&new.source, &new.destination))?;
    match (packet.shape, family) {
        (Shape::LaterFragment, _) => {}
        (Shape::FirstFragment, Family::V6) => {
            translate_ports(ctx, fragment::TRANSPORT_V6, before, after, old, new)?;
        }
        (Shape::Ports, _) if packet.flow.protocol == protocol::TCP => {
            translate_ports(ctx, family.transport(), before, after, old, new)?;
            if mss::is_announced(ctx, family)? {
                let overhead = translation.overhead as usize;
                mss::clamp_xdp(ctx, lookup::config()?, family, overhead)?;
            }
        }
        _ => translate_ports(ctx, family.transport(), before, after, old, new)?,
    }
    Ok(0)
}

/// Changes the addresses of an IP header, whose sums are given, and takes a hop off.
#[inline(always)]
pub fn route(
    ctx: &XdpContext,
    family: Family,
    before: u64,
    after: u64,
    ends: (&Address, &Address),
) -> Result<(), DropReason> {
    match family {
        Family::V4 => {
            let ip: *mut Ipv4 = ctx.header(NETWORK)?;
            // SAFETY: in bounds, as `header` has checked.
            unsafe {
                if (*ip).ttl <= 1 {
                    return Err(DropReason::HopLimit);
                }
                let old = u64::from(u16::from_ne_bytes([(*ip).ttl, 0]));
                let new = u64::from(u16::from_ne_bytes([(*ip).ttl - 1, 0]));
                (*ip).checksum = checksum::update((*ip).checksum, before + old, after + new);
                (*ip).ttl -= 1;
                (*ip).source = ends.0.v4_word();
                (*ip).destination = ends.1.v4_word();
            }
        }
        Family::V6 => {
            let ip: *mut Ipv6 = ctx.header(NETWORK)?;
            // SAFETY: as above.
            unsafe {
                if (*ip).hop_limit <= 1 {
                    return Err(DropReason::HopLimit);
                }
                (*ip).hop_limit -= 1;
                (*ip).source = ends.0.words;
                (*ip).destination = ends.1.words;
            }
        }
    }
    Ok(())
}

/// Changes the ports of TCP or UDP, and the checksum that covers them and the addresses.
#[inline(always)]
fn translate_ports(
    ctx: &XdpContext,
    transport: usize,
    before: u64,
    after: u64,
    old: &FlowKey,
    new: &FlowKey,
) -> Result<(), DropReason> {
    let before = before + u64::from(old.source_port_be) + u64::from(old.destination_port_be);
    let after = after + u64::from(new.source_port_be) + u64::from(new.destination_port_be);
    if new.protocol == protocol::TCP {
        let tcp: *mut Tcp = ctx.header(transport)?;
        // SAFETY: in bounds, as `header` has checked.
        unsafe {
            (*tcp).source_be = new.source_port_be;
            (*tcp).destination_be = new.destination_port_be;
            (*tcp).checksum = checksum::update((*tcp).checksum, before, after);
        }
    } else {
        let udp: *mut Udp = ctx.header(transport)?;
        // SAFETY: as above.
        unsafe {
            (*udp).source_be = new.source_port_be;
            (*udp).destination_be = new.destination_port_be;
            (*udp).checksum = checksum::update_udp((*udp).checksum, before, after);
        }
    }
    Ok(())
}

/// The same as [`translate`] for an skb: one end after the other, not in a loop, of which Linux 6.1 would
/// not see the end.
#[inline(always)]
pub fn replace(skb: *mut __sk_buff) -> Result<(), DropReason> {
    let what = replace_end(skb, true).unpack()?;
    if what == IS_ERROR {
        return error::replace(skb);
    }
    replace_end(skb, false).unpack()?;
    if what == ANNOUNCES {
        clamp(skb).unpack()?;
    }
    Ok(())
}

/// Of [`replace_end`]: the packet is an ICMP error, and only its hop was taken off.
const IS_ERROR: u32 = 1;
/// Of [`replace_end`]: the packet announces how large segments may be.
const ANNOUNCES: u32 = 2;

/// The first part of [`replace`] if it `is_source`, else the other; says what kind of packet it is.
#[inline(never)]
#[unsafe(export_name = "nat_replace_end")]
extern "C" fn replace_end(skb: *mut __sk_buff, is_source: bool) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, 0)
        .and_then(|packet| try_replace_end(ctx, &packet, is_source))
        .pack()
}

#[inline(always)]
fn try_replace_end(ctx: &TcContext, packet: &Packet, is_source: bool) -> Result<u32, DropReason> {
    let translation = translation()?;
    let end = if is_source {
        rewrite::take_hop(ctx, packet.family)?;
        if packet.shape == Shape::Error {
            return Ok(IS_ERROR);
        }
        fragment::note(ctx, packet, &translation.old)?;
        End::Source
    } else {
        End::Destination
    };
    let old = Peer::of_flow(&translation.old, end);
    let new = Peer::of_flow(&translation.new, end);
    rewrite::replace(ctx, packet, end, old, new)?;
    Ok(if packet.tcp_flags & Tcp::SYN != 0 {
        ANNOUNCES
    } else {
        0
    })
}

/// Lowers the largest segment of a SYN to what fits the way.
#[inline(never)]
#[unsafe(export_name = "nat_clamp")]
extern "C" fn clamp(skb: *mut __sk_buff) -> Packed {
    try_clamp(&TcContext::new(skb)).pack()
}

#[inline(always)]
fn try_clamp(ctx: &TcContext) -> Result<u32, DropReason> {
    let translation = translation()?;
    let family = if translation.new.source.is_v4() {
        Family::V4
    } else {
        Family::V6
    };
    let overhead = translation.overhead as usize;
    if let Some(limit) = mss::fitting(lookup::config()?, family, overhead) {
        mss::clamp_skb(ctx, family, limit)?;
    }
    Ok(0)
}
