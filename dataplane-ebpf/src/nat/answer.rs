//! What backends answer: to the client in the VIP's name, by where its last packet came in.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_OK, xdp_md};
use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_neigh};
use aya_ebpf::programs::{TcContext, XdpContext};
use core::{mem, ptr};
use fairlead_dataplane_common::{Config, DropReason, NatEntry, ROUTE_NODE_HOST, ROUTE_PODS, hash};

use super::{Translation, change, port, translation};
use crate::encap::{self, Label};
use crate::forward::SENT_ON;
use crate::frame::Frame;
use crate::header::Ethernet;
use crate::maps::{NAT, UPLINKS};
use crate::parse::{self, Shape};
use crate::verdict::{Pack, Packed, Unpack};
use crate::vlan::{self, Tags};
use crate::{lookup, reply};

/// Translates an answer to the node's own address, if it is one, and sends it to where the client's
/// packets come from; passes it where that is another interface or not known.
#[inline(always)]
pub fn answer_xdp(ctx: &XdpContext) -> Result<u32, DropReason> {
    if find(ctx.ctx).unpack()? == 0 {
        return Ok(XDP_PASS);
    }
    change::translate(ctx.ctx).unpack()?;
    let entry = &translation()?.entry;
    let (mac, tags) = (entry.place.mac, Tags::of_note(&entry.place));
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { Ethernet::readdress(ethernet, mac, (*ethernet).destination) };
    if tags != Tags::NONE && !vlan::put_back(ctx.ctx, tags) {
        return Err(DropReason::RewriteFailed);
    }
    Ok(SENT_ON)
}

/// Whether an answer can be sent from here: then it is known what it becomes.
#[inline(never)]
#[unsafe(export_name = "nat_find_answer")]
extern "C" fn find(ctx: *mut xdp_md) -> Packed {
    try_find(&XdpContext::new(ctx)).pack()
}

#[inline(always)]
fn try_find(ctx: &XdpContext) -> Result<u32, DropReason> {
    let translation = translation()?;
    let Some(entry) = NAT.get_ptr_mut(&translation.old) else {
        return Ok(0);
    };
    // SAFETY: the kernel keeps a removed element readable until the program has ended; the counts of
    // two CPUs that meet here may lose one, which is all they lose.
    unsafe {
        if (*entry).place.ifindex != ctx.ifindex() {
            return Ok(0);
        }
        translation.become_clients(&*entry);
        if parse::of(ctx, 0)?.shape != Shape::Error {
            port::met(entry, ctx.length());
        }
    }
    Ok(1)
}

/// The same as [`answer_xdp`] for an skb, to wherever the client is: outside, a pod, or the node itself.
#[inline(always)]
pub fn answer_skb(skb: *mut __sk_buff) -> Result<i32, DropReason> {
    if find_skb(skb).unpack()? == 0 {
        return Ok(TC_ACT_OK);
    }
    change::replace(skb)?;
    depart_skb(skb).unpack_skb()
}

/// Whether a packet is an answer: then it is known what it becomes.
#[inline(never)]
#[unsafe(export_name = "nat_find_answer_skb")]
extern "C" fn find_skb(skb: *mut __sk_buff) -> Packed {
    try_find_skb(&TcContext::new(skb)).pack()
}

#[inline(always)]
fn try_find_skb(ctx: &TcContext) -> Result<u32, DropReason> {
    let translation = translation()?;
    let Some(entry) = NAT.get_ptr_mut(&translation.old) else {
        return Ok(0);
    };
    // SAFETY: as in `try_find`.
    unsafe {
        translation.become_clients(&*entry);
        if parse::of(ctx, 0)?.shape != Shape::Error {
            port::met(entry, ctx.length());
        }
    }
    Ok(1)
}

/// The last part of [`answer_skb`].
#[inline(never)]
#[unsafe(export_name = "nat_return_skb")]
extern "C" fn depart_skb(skb: *mut __sk_buff) -> Packed {
    try_depart_skb(&TcContext::new(skb)).pack()
}

#[inline(always)]
fn try_depart_skb(ctx: &TcContext) -> Result<i32, DropReason> {
    let translation = translation()?;
    let config = lookup::config()?;
    let client = translation.new.destination;
    if config.is_own(&client) {
        return Ok(TC_ACT_OK);
    }
    if let Some(endpoint) = lookup::endpoint(0, client) {
        return reply::hand_over(ctx, endpoint);
    }
    vlan::discard(ctx)?;
    if let Some(route) = lookup::route(0, client)
        && (route.kind == ROUTE_PODS || route.kind == ROUTE_NODE_HOST)
    {
        let node = lookup::node(route.node).ok_or(DropReason::NoRoute)?;
        let packet = parse::of(ctx, 0)?;
        let hash = hash::flow(&config.seed, &translation.new);
        let label = Label::node(config, node.id);
        return encap::send_skb(ctx, config, node, &packet, hash, label);
    }
    return_to_client(ctx, config, &translation.entry)
}

/// Sends a packet out by where the client's last one came in.
#[inline(always)]
fn return_to_client(ctx: &TcContext, config: &Config, entry: &NatEntry) -> Result<i32, DropReason> {
    // SAFETY: the agent never changes an entry in place, and the kernel keeps a removed one readable
    // until the program has ended.
    let Some(uplink) = (unsafe { UPLINKS.get(&entry.place.ifindex) }) else {
        // The interface has gone.
        // SAFETY: no parameters: the stack routes by the destination just written.
        return Ok(
            unsafe { bpf_redirect_neigh(config.uplink_ifindex, ptr::null_mut(), 0, 0) } as i32,
        );
    };
    const { assert!(mem::offset_of!(Ethernet, source) == 6) };
    ctx.store(0, &entry.place.mac, 0)
        .and_then(|()| ctx.store(6, &uplink.mac, 0))
        .map_err(|_| DropReason::RewriteFailed)?;
    if !Tags::of_note(&entry.place).put_on(ctx) {
        return Err(DropReason::RewriteFailed);
    }
    // SAFETY: takes numbers only.
    Ok(unsafe { bpf_redirect(entry.place.ifindex, 0) } as i32)
}

impl Translation {
    /// The answer becomes what `entry` says.
    #[inline(always)]
    fn become_clients(&mut self, entry: &NatEntry) {
        let (old, new) = (&self.old, &mut self.new);
        new.source = entry.vip;
        new.destination = entry.client;
        new.vpc = old.vpc;
        new.source_port_be = entry.vip_port_be;
        new.destination_port_be = entry.client_port_be;
        new.protocol = old.protocol;
        new.padding = [0; 3];
        self.entry.place = entry.place;
    }
}
