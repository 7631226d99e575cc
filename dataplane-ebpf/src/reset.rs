//! The answer to a segment that nobody takes, as the backend of its connection is gone or the service
//! has none: a reset in the VIP's name (RFC 9293 §3.10.7.1), so that the client need not wait for its
//! own timeouts. A segment gets one answer, and a reset none; what is no segment is dropped.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::{
    bpf_redirect, bpf_redirect_neigh, bpf_skb_change_tail, bpf_xdp_adjust_tail,
};
use aya_ebpf::programs::{TcContext, XdpContext};
use core::{mem, ptr};
use fairlead_dataplane_common::{DropReason, FlowKey, ServiceEntry, checksum, protocol};

use crate::frame::{Frame, is_finished_by_device, is_passed_on, pull};
use crate::header::{Ethernet, Ipv4, Ipv6, NETWORK, Tcp};
use crate::parse::{Family, Packet, Shape};
use crate::verdict::{Pack, Packed, Refusal};
use crate::{lookup, parse, pick, stats, vlan};

/// Bytes of a reset from its TCP header on: it has no options and no data.
const SEGMENT: usize = mem::size_of::<Tcp>();

/// Begins the answer to a packet for the service in `service_slot`.
#[inline(always)]
pub fn begin(service_slot: u32) -> Result<(), DropReason> {
    pick::query()?.service_index = service_slot;
    Ok(())
}

/// Turns a TCP segment for the service that was told into the reset that answers it, and sends it back.
/// What is not answered is refused.
#[inline(never)]
#[unsafe(export_name = "reset_answer_xdp")]
pub extern "C" fn answer_xdp(ctx: *mut xdp_md) -> Packed {
    let ctx = &XdpContext::new(ctx);
    let done = parse::of(ctx, 0).and_then(|packet| send_back_xdp(ctx, &packet));
    of_service(done).pack()
}

/// The same for an skb. If it `came_by_node`, who sent it here is not who is answered: the reset then
/// goes where the way to the client is.
#[inline(never)]
#[unsafe(export_name = "reset_answer_skb")]
pub extern "C" fn answer_skb(skb: *mut __sk_buff, came_by_node: bool) -> Packed {
    let ctx = &TcContext::new(skb);
    let done = parse::of(ctx, 0).and_then(|packet| send_back_skb(ctx, &packet, came_by_node));
    of_service(done).pack()
}

/// What came of an answer, and counts it.
#[inline(always)]
fn of_service<T>(done: Result<T, DropReason>) -> Result<T, Refusal> {
    let service_slot = ServiceEntry::slot(pick::query()?.service_index);
    match done {
        Ok(action) => {
            stats::reset(service_slot);
            Ok(action)
        }
        Err(reason) => Err(Refusal::of_service(reason, service_slot)),
    }
}

/// Only whole segments are answered, which show their ports, and never a reset. What another node passed
/// on does not say whom to answer.
#[inline(always)]
fn refuse_others<F: Frame>(frame: &F, packet: &Packet) -> Result<(), DropReason> {
    let is_segment = packet.shape == Shape::Ports && packet.flow.protocol == protocol::TCP;
    if is_segment && packet.tcp_flags & Tcp::RST == 0 && !is_passed_on(frame)? {
        Ok(())
    } else {
        Err(DropReason::NoBackend)
    }
}

#[inline(always)]
fn send_back_xdp(ctx: &XdpContext, packet: &Packet) -> Result<u32, DropReason> {
    refuse_others(ctx, packet)?;
    let (tcp, _) = answer(ctx, packet)?;
    let length = packet.family.transport() + SEGMENT;
    // SAFETY: the context is the program's own.
    if unsafe { bpf_xdp_adjust_tail(ctx.ctx, length as i32 - ctx.length() as i32) } != 0 {
        return Err(DropReason::RewriteFailed);
    }
    write(ctx, packet, tcp)?;
    Ok(XDP_TX)
}

#[inline(always)]
fn send_back_skb(ctx: &TcContext, packet: &Packet, came_by_node: bool) -> Result<i32, DropReason> {
    refuse_others(ctx, packet)?;
    let (tcp, pseudo) = answer(ctx, packet)?;
    let transport = packet.family.transport();
    let length = (transport + SEGMENT) as u32;
    let skb = ctx.skb.skb;
    // SAFETY: the context is the program's own.
    if unsafe { bpf_skb_change_tail(skb, length, 0) } != 0 {
        return Err(DropReason::RewriteFailed);
    }
    pull(ctx, length)?;
    write(ctx, packet, Tcp { checksum: 0, ..tcp })?;
    let checksum = if is_finished_by_device(ctx, transport + Tcp::CHECKSUM)? {
        checksum::fold(pseudo)
    } else {
        tcp.checksum
    };
    ctx.store(transport + Tcp::CHECKSUM, &checksum, 0)
        .map_err(|_| DropReason::RewriteFailed)?;
    if came_by_node {
        vlan::discard(ctx)?;
        let uplink = lookup::config()?.uplink_ifindex;
        // SAFETY: no parameters: the stack routes by the header just written.
        return Ok(unsafe { bpf_redirect_neigh(uplink, ptr::null_mut(), 0, 0) } as i32);
    }
    // SAFETY: the context is the program's own; the rest are numbers.
    Ok(unsafe { bpf_redirect((*skb).ifindex, 0) } as i32)
}

/// The TCP header of the reset, and the sum of its pseudo header.
#[inline(always)]
fn answer<F: Frame>(frame: &F, packet: &Packet) -> Result<(Tcp, u64), DropReason> {
    let flow = &packet.flow;
    let tcp: *mut Tcp = frame.header(packet.family.transport())?;
    // SAFETY: in bounds, as `header` has checked, and any bytes are a `Tcp`.
    let tcp = unsafe { *tcp };
    let (sequence, acknowledgement, flags) = if tcp.flags & Tcp::ACK != 0 {
        (tcp.acknowledgement, 0, Tcp::RST)
    } else {
        let headers = (packet.family.transport() - NETWORK) as u32 + tcp.header_length();
        let length = packet.length.saturating_sub(headers)
            + u32::from(tcp.flags & Tcp::SYN != 0)
            + u32::from(tcp.flags & Tcp::FIN != 0);
        let next = u32::from_be(tcp.sequence).wrapping_add(length);
        (0, next.to_be(), Tcp::RST | Tcp::ACK)
    };
    let mut reset = Tcp {
        source_be: flow.destination_port_be,
        destination_be: flow.source_port_be,
        sequence,
        acknowledgement,
        data_offset: ((SEGMENT / 4) as u8) << 4,
        flags,
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    let pseudo = pseudo_header(flow);
    let sum = pseudo
        + u64::from(reset.source_be)
        + u64::from(reset.destination_be)
        + u64::from(reset.sequence)
        + u64::from(reset.acknowledgement)
        + u64::from(u16::from_ne_bytes([reset.data_offset, reset.flags]));
    reset.checksum = !checksum::fold(sum);
    Ok((reset, pseudo))
}

/// The sum of the reset's pseudo header: RFC 9293 §3.1, RFC 8200 §8.1. The two differ in how wide
/// they write the same numbers, which a sum does not show.
#[inline(always)]
fn pseudo_header(flow: &FlowKey) -> u64 {
    flow.source.sum()
        + flow.destination.sum()
        + u64::from((SEGMENT as u16).to_be())
        + u64::from(u16::from(protocol::TCP).to_be())
}

/// Writes all headers of the reset, back to whom the packet came from.
#[inline(always)]
fn write<F: Frame>(frame: &F, packet: &Packet, tcp: Tcp) -> Result<(), DropReason> {
    let flow = &packet.flow;
    let ethernet: *mut Ethernet = frame.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { Ethernet::turn_round(ethernet) };
    match packet.family {
        Family::V4 => {
            let ip: *mut Ipv4 = frame.header(NETWORK)?;
            let length = mem::size_of::<Ipv4>() + SEGMENT;
            // SAFETY: as above.
            unsafe {
                *ip = Ipv4::plain(
                    protocol::TCP,
                    length as u16,
                    flow.destination.v4_word(),
                    flow.source.v4_word(),
                );
            }
        }
        Family::V6 => {
            let ip: *mut Ipv6 = frame.header(NETWORK)?;
            // SAFETY: as above.
            unsafe {
                *ip = Ipv6 {
                    version_class_label_be: (6_u32 << 28).to_be(),
                    payload_length_be: (SEGMENT as u16).to_be(),
                    next_header: protocol::TCP,
                    hop_limit: Ipv4::TTL,
                    source: flow.destination.words,
                    destination: flow.source.words,
                };
            }
        }
    }
    let segment: *mut Tcp = frame.header(packet.family.transport())?;
    // SAFETY: as above.
    unsafe { *segment = tcp };
    Ok(())
}
