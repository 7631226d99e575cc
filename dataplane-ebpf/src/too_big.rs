//! The answer to a packet that does not fit the way to its backend: ICMP "fragmentation needed" (RFC
//! 1191) or ICMPv6 "packet too big" (RFC 8201), in the VIP's name.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, xdp_md,
};
use aya_ebpf::helpers::{
    bpf_redirect, bpf_skb_change_tail, bpf_xdp_adjust_head, bpf_xdp_adjust_tail,
};
use aya_ebpf::programs::{TcContext, XdpContext};
use core::mem;
use fairlead_dataplane_common::{Address, Counter, DropReason, checksum, protocol};

use crate::frame::{Frame, OnWire, is_finished_by_device, pull};
use crate::header::{Ethernet, Icmp, Ipv4, Ipv6, NETWORK, Tcp, Udp};
use crate::parse::{Family, Packet, Shape};
use crate::verdict::{Pack, Packed};
use crate::{parse, stats};

/// The start of a packet that an error quotes: its IP header and eight bytes more, which is what the
/// sender needs to find the flow.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Quote<const WORDS: usize> {
    words: [u16; WORDS],
}

// SAFETY: packed to alignment 2, integers only.
unsafe impl<const WORDS: usize> OnWire for Quote<WORDS> {}

const QUOTE_V4: usize = (mem::size_of::<Ipv4>() + 8) / 2;
/// In IPv6 a fragment's header stands before those, without which Linux does not heed the error
/// (`icmpv6_notify` of net/ipv6/icmp.c).
const QUOTE_V6: usize = (mem::size_of::<Ipv6>() + 16) / 2;
/// What skbs are quoted with: the kernel cuts none in front of the checksum that its device is to finish.
const QUOTE_SKB_V4: usize = (mem::size_of::<Ipv4>() + mem::size_of::<Tcp>()) / 2;
const QUOTE_SKB_V6: usize = (mem::size_of::<Ipv6>() + mem::size_of::<Tcp>()) / 2;

/// What stands before the quote.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Error<Ip> {
    ethernet: Ethernet,
    ip: Ip,
    icmp: Icmp,
}

// SAFETY: packed to alignment 2, made of headers only.
unsafe impl<Ip: OnWire> OnWire for Error<Ip> {}

/// Turns a packet into the error that says that `mtu` bytes would have fitted, and sends it back.
///
/// IPv4 that may be fragmented is answered too: a router would fragment it (RFC 1191 §3), but a tunnel's
/// ends do not, and a sender that learns of the limit makes smaller fragments itself. Only a later
/// fragment is dropped: its beginning tells no sender whose it is.
#[inline(never)]
#[unsafe(export_name = "too_big_answer")]
pub extern "C" fn answer(ctx: *mut xdp_md, mtu: u32) -> Packed {
    let ctx = &XdpContext::new(ctx);
    parse::of(ctx, 0)
        .and_then(|packet| match packet.family {
            Family::V4 => answer_v4(ctx, &packet, mtu),
            Family::V6 => answer_v6(ctx, &packet, mtu),
        })
        .pack()
}

/// The same for an skb.
#[inline(never)]
#[unsafe(export_name = "too_big_answer_skb")]
pub extern "C" fn answer_skb(skb: *mut __sk_buff, mtu: u32) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, 0)
        .and_then(|packet| try_answer_skb(ctx, &packet, mtu))
        .pack()
}

#[inline(always)]
fn answer_v4(ctx: &XdpContext, packet: &Packet, mtu: u32) -> Result<u32, DropReason> {
    refuse_others(packet)?;
    make_room::<Ipv4, QUOTE_V4>(ctx)?;
    let (ip, icmp) = headers_v4::<QUOTE_V4, _>(ctx, mtu)?;
    write::<Ipv4, QUOTE_V4, _>(ctx, ip, icmp, 0, None)?;
    Ok(XDP_TX)
}

#[inline(always)]
fn answer_v6(ctx: &XdpContext, packet: &Packet, mtu: u32) -> Result<u32, DropReason> {
    refuse_others(packet)?;
    make_room::<Ipv6, QUOTE_V6>(ctx)?;
    let (ip, icmp, pseudo) = headers_v6::<QUOTE_V6, _>(ctx, mtu)?;
    write::<Ipv6, QUOTE_V6, _>(ctx, ip, icmp, pseudo, None)?;
    Ok(XDP_TX)
}

#[inline(always)]
fn try_answer_skb(ctx: &TcContext, packet: &Packet, mtu: u32) -> Result<i32, DropReason> {
    refuse_others(packet)?;
    let finished = finished_by_device(ctx, packet)?;
    match packet.family {
        Family::V4 => {
            make_room_skb::<Ipv4, QUOTE_SKB_V4>(ctx)?;
            let (ip, icmp) = headers_v4::<QUOTE_SKB_V4, _>(ctx, mtu)?;
            write::<Ipv4, QUOTE_SKB_V4, _>(ctx, ip, icmp, 0, finished)?;
        }
        Family::V6 => {
            make_room_skb::<Ipv6, QUOTE_SKB_V6>(ctx)?;
            let (ip, icmp, pseudo) = headers_v6::<QUOTE_SKB_V6, _>(ctx, mtu)?;
            write::<Ipv6, QUOTE_SKB_V6, _>(ctx, ip, icmp, pseudo, finished)?;
        }
    }
    // SAFETY: the context is the program's own; the rest are numbers.
    Ok(unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) } as i32)
}

/// What the quote sums up to from its transport header on, if a device is to finish the checksum in it:
/// whatever that writes, the sum is then the complement of the pseudo header's, which stands there.
#[inline(always)]
fn finished_by_device(ctx: &TcContext, packet: &Packet) -> Result<Option<u16>, DropReason> {
    let transport = packet.family.transport();
    let checksum = match (packet.shape, packet.flow.protocol) {
        (Shape::Ports, protocol::TCP) => transport + Tcp::CHECKSUM,
        (Shape::Ports, protocol::UDP) => transport + Udp::CHECKSUM,
        _ => return Ok(None),
    };
    if !is_finished_by_device(ctx, checksum)? {
        return Ok(None);
    }
    let pseudo: u16 = ctx.load(checksum).map_err(|_| DropReason::RewriteFailed)?;
    Ok(Some(!pseudo))
}

/// The headers of an error whose room has been made, from its quote.
#[inline(always)]
fn headers_v4<const WORDS: usize, F: Frame>(
    frame: &F,
    mtu: u32,
) -> Result<(Ipv4, Icmp), DropReason> {
    let length = mem::size_of::<Ipv4>() + mem::size_of::<Icmp>() + mem::size_of::<Quote<WORDS>>();
    let quoted: *mut Ipv4 = frame.header(mem::size_of::<Error<Ipv4>>())?;
    // SAFETY: in bounds, as `header` has checked.
    let (client, vip) = unsafe { Ipv4::addresses(quoted) };
    let ip = Ipv4::plain(protocol::ICMP, length as u16, vip, client);
    let icmp = icmp(Icmp::UNREACHABLE, Icmp::FRAGMENTATION_NEEDED, mtu);
    Ok((ip, icmp))
}

/// The same in IPv6, with the sum of the pseudo header.
#[inline(always)]
fn headers_v6<const WORDS: usize, F: Frame>(
    frame: &F,
    mtu: u32,
) -> Result<(Ipv6, Icmp, u64), DropReason> {
    let length = mem::size_of::<Icmp>() + mem::size_of::<Quote<WORDS>>();
    let quoted: *mut Ipv6 = frame.header(mem::size_of::<Error<Ipv6>>())?;
    // SAFETY: in bounds, as `header` has checked.
    let (client, vip) = unsafe { Ipv6::addresses(quoted) };
    let ip = Ipv6 {
        version_class_label_be: (6_u32 << 28).to_be(),
        payload_length_be: (length as u16).to_be(),
        next_header: protocol::ICMPV6,
        hop_limit: Ipv4::TTL,
        source: vip,
        destination: client,
    };
    // RFC 8200 §8.1.
    let pseudo = Address { words: vip }.sum()
        + Address { words: client }.sum()
        + u64::from((length as u32).to_be())
        + u64::from(u32::from(protocol::ICMPV6).to_be());
    let icmp = icmp(Icmp::V6_PACKET_TOO_BIG, 0, mtu);
    Ok((ip, icmp, pseudo))
}

/// RFC 1122 §3.2.2, RFC 4443 §2.4: never an error about an error. Nor about a later fragment of IPv4.
#[inline(always)]
fn refuse_others(packet: &Packet) -> Result<(), DropReason> {
    let is_later = packet.family == Family::V4 && packet.shape == Shape::LaterFragment;
    if is_later || packet.shape == Shape::Error {
        return Err(DropReason::TooBig);
    }
    Ok(())
}

/// The MTU is the message's second word; in IPv4 its upper half is unused, and zero.
#[inline(always)]
fn icmp(kind: u8, code: u8, mtu: u32) -> Icmp {
    Icmp {
        kind,
        code,
        checksum: 0,
        identifier: ((mtu >> 16) as u16).to_be(),
        sequence: (mtu as u16).to_be(),
    }
}

/// Leaves only the quote of a frame, and makes room for the error's headers before it. What they say
/// is read from the quote afterwards: nothing of the packet waits on the stack. The room is made first:
/// it is what may be refused, and then the sample of the drop shows the packet as it came.
#[inline(always)]
fn make_room<Ip: OnWire, const WORDS: usize>(ctx: &XdpContext) -> Result<(), DropReason> {
    let kept = added::<Ip>() + NETWORK + mem::size_of::<Quote<WORDS>>();
    let _whole: *mut Quote<WORDS> = ctx.header(NETWORK)?;
    // SAFETY: the context is the program's own.
    let moved = unsafe {
        bpf_xdp_adjust_head(ctx.ctx, -(added::<Ip>() as i32)) == 0
            && bpf_xdp_adjust_tail(ctx.ctx, kept as i32 - ctx.length() as i32) == 0
    };
    if moved {
        Ok(())
    } else {
        Err(DropReason::RewriteFailed)
    }
}

/// The same for an skb, of which the tail goes first: what is left always has room before it.
#[inline(always)]
fn make_room_skb<Ip: OnWire, const WORDS: usize>(ctx: &TcContext) -> Result<(), DropReason> {
    let kept = (NETWORK + mem::size_of::<Quote<WORDS>>()) as u32;
    // SAFETY: the context is the program's own.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, kept, 0) } != 0 {
        return Err(DropReason::RewriteFailed);
    }
    let added = added::<Ip>() as i32;
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    ctx.adjust_room(added, BPF_ADJ_ROOM_MAC, flags)
        .map_err(|_| DropReason::RewriteFailed)?;
    pull(ctx, kept + added as u32)
}

/// Bytes between an error's Ethernet header and its quote.
#[inline(always)]
const fn added<Ip>() -> usize {
    mem::size_of::<Ip>() + mem::size_of::<Icmp>()
}

/// Writes an error's headers before its quote, back to whom the packet came from. `pseudo` is what the
/// checksum covers beside the message, `finished` see [`finished_by_device`].
#[inline(always)]
fn write<Ip: OnWire, const WORDS: usize, F: Frame>(
    frame: &F,
    ip: Ip,
    mut icmp: Icmp,
    pseudo: u64,
    finished: Option<u16>,
) -> Result<(), DropReason> {
    let quote: *mut Quote<WORDS> = frame.header(mem::size_of::<Error<Ip>>())?;
    let mut sum = pseudo
        + u64::from(u16::from_ne_bytes([icmp.kind, icmp.code]))
        + u64::from(icmp.identifier)
        + u64::from(icmp.sequence);
    let mut counted = WORDS;
    if let Some(rest) = finished {
        counted = mem::size_of::<Ip>() / 2;
        sum += u64::from(rest);
    }
    // SAFETY: in bounds, as `header` has checked.
    for (index, word) in unsafe { (*quote).words }.into_iter().enumerate() {
        if index < counted {
            sum += u64::from(word);
        }
    }
    icmp.checksum = !checksum::fold(sum);
    // XDP moves the start of a frame, the kernel that of an skb with its Ethernet header.
    let old: *mut Ethernet = frame.header(if F::HANDS_UP { added::<Ip>() } else { 0 })?;
    let error: *mut Error<Ip> = frame.header(0)?;
    // SAFETY: as above. Where the old Ethernet header is at the new ICMP header's place, it is moved
    // first.
    unsafe {
        let ethernet = &raw mut (*error).ethernet;
        (*ethernet).ethertype_be = (*old).ethertype_be;
        Ethernet::readdress(ethernet, (*old).source, (*old).destination);
        (*error).ip = ip;
        (*error).icmp = icmp;
    }
    stats::count(Counter::TooBigAnswered);
    Ok(())
}
