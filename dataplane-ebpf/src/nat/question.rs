//! What clients send: to the backend from a port of ours.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::bpf_redirect_neigh;
use aya_ebpf::programs::{TcContext, XdpContext};
use core::ptr;
use fairlead_dataplane_common::{ClientPlace, DropReason, NODE_SERVER};

use super::{Translation, change, port, translation};
use crate::encap::{self, Label};
use crate::forward::SENT_ON;
use crate::frame::Frame;
use crate::header::Ethernet;
use crate::server::{self, TOO_BIG};
use crate::verdict::{Pack, Packed, Unpack};
use crate::vlan::{self, Outer, Tags};
use crate::{lookup, parse};

/// Translates a client's packet for a backend on another node or outside, whose neighbour is resolved,
/// and sends it. Instead of an action it may return [`TOO_BIG`] and an MTU.
///
/// One function after the other, not one in the other: their stacks would not fit.
#[inline(always)]
pub fn send_xdp(ctx: &XdpContext) -> Result<u32, DropReason> {
    let too_big = enter(ctx.ctx).unpack()?;
    if too_big != 0 {
        return Ok(too_big);
    }
    change::translate(ctx.ctx).unpack()?;
    depart_xdp(ctx)
}

/// The last part of [`send_xdp`]: to the backend's node, or to the server.
#[inline(always)]
pub fn depart_xdp(ctx: &XdpContext) -> Result<u32, DropReason> {
    depart(ctx.ctx).unpack()
}

/// The first part of [`send_xdp`].
#[inline(never)]
#[unsafe(export_name = "nat_enter")]
extern "C" fn enter(ctx: *mut xdp_md) -> Packed {
    try_enter(&XdpContext::new(ctx)).pack()
}

#[inline(always)]
fn try_enter(ctx: &XdpContext) -> Result<u32, DropReason> {
    let translation = translation()?;
    let node = lookup::node(translation.backend.node).ok_or(DropReason::NoBackend)?;
    let overhead = overhead(translation)?;
    translation.overhead = overhead;
    let packet = parse::of(ctx, 0)?;
    if node.mtu > overhead && node.mtu < packet.length + overhead {
        return Ok(TOO_BIG + node.mtu - overhead);
    }
    let tags = translation.tags;
    note_client(translation, ctx, tags)?;
    port::find(translation, &packet)?;
    Ok(0)
}

#[inline(never)]
#[unsafe(export_name = "nat_depart")]
extern "C" fn depart(ctx: *mut xdp_md) -> Packed {
    try_depart(&XdpContext::new(ctx)).pack()
}

#[inline(always)]
fn try_depart(ctx: &XdpContext) -> Result<u32, DropReason> {
    let translation = translation()?;
    let node = lookup::node(translation.backend.node).ok_or(DropReason::NoBackend)?;
    if node.flags & NODE_SERVER == 0 {
        let config = lookup::config()?;
        let packet = parse::of(ctx, 0)?;
        let label = Label::node(config, node.id);
        encap::push_xdp(ctx, config, node, &packet, translation.hash, label)?;
        return Ok(SENT_ON);
    }
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { Ethernet::readdress(ethernet, node.mac, (*ethernet).destination) };
    Ok(SENT_ON)
}

/// The same as [`send_xdp`] for an skb that had `outer` before the tag it has; the stack resolves
/// neighbours.
#[inline(always)]
pub fn send_skb(skb: *mut __sk_buff, outer: Outer) -> Result<i32, DropReason> {
    enter_skb(skb, outer.number()).unpack()?;
    change::replace(skb)?;
    depart_skb(skb).unpack_skb()
}

/// The first part of [`send_skb`].
#[inline(never)]
#[unsafe(export_name = "nat_enter_skb")]
extern "C" fn enter_skb(skb: *mut __sk_buff, outer: u64) -> Packed {
    try_enter_skb(&TcContext::new(skb), Outer::of_number(outer)).pack()
}

#[inline(always)]
fn try_enter_skb(ctx: &TcContext, outer: Outer) -> Result<u32, DropReason> {
    let translation = translation()?;
    translation.overhead = overhead(translation)?;
    note_client(translation, ctx, Tags::of_skb(ctx, outer))?;
    let packet = parse::of(ctx, 0)?;
    port::find(translation, &packet)?;
    Ok(0)
}

/// The last part of [`send_skb`].
#[inline(never)]
#[unsafe(export_name = "nat_depart_skb")]
extern "C" fn depart_skb(skb: *mut __sk_buff) -> Packed {
    try_depart_skb(&TcContext::new(skb)).pack()
}

#[inline(always)]
fn try_depart_skb(ctx: &TcContext) -> Result<i32, DropReason> {
    vlan::discard(ctx)?;
    let translation = translation()?;
    let config = lookup::config()?;
    let node = lookup::node(translation.backend.node).ok_or(DropReason::NoBackend)?;
    if node.flags & NODE_SERVER == 0 {
        let packet = parse::of(ctx, 0)?;
        let label = Label::node(config, node.id);
        return encap::send_skb(ctx, config, node, &packet, translation.hash, label);
    }
    // SAFETY: no parameters: the stack routes by the destination just written.
    Ok(unsafe { bpf_redirect_neigh(server::uplink(config, node), ptr::null_mut(), 0, 0) } as i32)
}

/// Bytes of headers that stand before a packet on its way to the backend.
#[inline(always)]
fn overhead(translation: &Translation) -> Result<u32, DropReason> {
    let node = lookup::node(translation.backend.node).ok_or(DropReason::NoBackend)?;
    Ok(if node.flags & NODE_SERVER != 0 {
        0
    } else {
        encap::overhead_to(node)
    })
}

/// Notes where a client's packet came from, as that is where answers go.
#[inline(always)]
fn note_client<F: Frame>(
    translation: &mut Translation,
    frame: &F,
    tags: Tags,
) -> Result<(), DropReason> {
    let ethernet: *mut Ethernet = frame.header(0)?;
    let entry = &mut translation.entry;
    let (tag, inner_tag) = tags.noted();
    entry.place = ClientPlace {
        // SAFETY: in bounds, as `header` has checked.
        mac: unsafe { (*ethernet).source },
        inner_tag,
        ifindex: frame.ifindex(),
        tag,
    };
    Ok(())
}
