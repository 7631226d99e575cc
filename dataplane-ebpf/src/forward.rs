//! How a packet gets to the backend that was picked for it: as it is to a node of this segment (dr),
//! encapsulated (tun), or up to where the backend is.

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::programs::{TcContext, XdpContext};
use fairlead_dataplane_common::{
    Config, DropReason, FlowKey, NODE_LOCAL, NODE_SERVER, NodeEntry, SERVICE_DR, SERVICE_NAT,
    ServiceEntry, mac,
};

use crate::encap::{self, Label};
use crate::frame::{Frame, is_passed_on, is_segmented_later};
use crate::header::Ethernet;
use crate::parse::{Packet, Shape};
use crate::pick::{self, Pick};
use crate::reply;
use crate::server::{self, TOO_BIG};
use crate::stage::{DELIVER, DELIVER_ERROR, TRANSLATE};
use crate::verdict::Unpack;
use crate::{lookup, nat, stats, too_big, vlan};

/// [`XDP_TX`] of what was sent on to a node, a server or a client: the frame has the VLAN tags that it
/// is to have, and does not get back those it came with. [`action`] says what it is to the kernel.
pub const SENT_ON: u32 = XDP_TX | 1 << 8;

/// The XDP action in what ways through return.
#[inline(always)]
pub const fn action(done: u32) -> u32 {
    done & 0xff
}

/// Sends a frame to the node of the backend that was picked for it.
/// Passes what belongs to a pod of this node, and what needs a neighbour resolved first.
#[inline(always)]
pub fn send_xdp(
    ctx: &XdpContext,
    config: &Config,
    packet: &Packet,
    flow: &FlowKey,
    pick: &Pick,
) -> Result<u32, DropReason> {
    let Pick {
        service, backend, ..
    } = *pick;
    if backend.node == NODE_LOCAL || is_passed_on(ctx)? {
        return Ok(XDP_PASS);
    }
    let node = lookup::node(backend.node).ok_or(DropReason::NoBackend)?;
    if !node.takes_from(ctx.ifindex()) {
        return Ok(XDP_PASS);
    }
    stats::packet(pick.found.backend_slot(), ctx.length(), pick.found.begins());
    if is_outside(service, node) {
        let flags = service.flags;
        let action = if is_translated(pick) {
            nat::begin(flow, pick)?;
            nat::send_xdp(ctx)?
        } else {
            server::send_xdp(ctx.ctx, backend.node, flags, pick.hash).unpack()?
        };
        if action < TOO_BIG {
            return Ok(action);
        }
        return too_big::answer(ctx.ctx, action - TOO_BIG).unpack();
    }
    if service.flags & SERVICE_DR != 0 && pick.found.is_agreed() && node.takes_frames() {
        return pass_on(ctx, config, node);
    }
    if let Some(fits) = encap::would_fit(node, packet.length) {
        return too_big::answer(ctx.ctx, fits).unpack();
    }
    let label = Label::backend(config, backend.id);
    encap::push_xdp(ctx, config, node, packet, pick.hash, label)?;
    Ok(SENT_ON)
}

/// The same for what XDP could not finish: a pod of this node, or a node whose neighbour the stack
/// has to resolve. What does not fit is left as it is: [`TOO_BIG`] and more says what would.
#[inline(always)]
pub fn send_skb(
    ctx: &TcContext,
    config: &Config,
    packet: &Packet,
    flow: &FlowKey,
    pick: &Pick,
) -> Result<i32, DropReason> {
    let backend = pick.backend;
    // What was passed on is counted where it entered. The other node's table and ours may differ for
    // a moment.
    let was_passed_on = is_passed_on(ctx)?;
    if !was_passed_on {
        stats::packet(pick.found.backend_slot(), ctx.length(), pick.found.begins());
    }
    if was_passed_on || backend.node == NODE_LOCAL {
        let kind = match packet.shape {
            Shape::Error => DELIVER_ERROR,
            _ => DELIVER,
        };
        return reply::hand_in(flow, pick::local(pick)?, kind);
    }
    let node = lookup::node(backend.node).ok_or(DropReason::NoBackend)?;
    if is_outside(pick.service, node) {
        let (skb, flags) = (ctx.skb.skb, pick.service.flags);
        return if is_translated(pick) {
            nat::begin(flow, pick)?;
            Ok(TRANSLATE)
        } else {
            server::send_skb(skb, backend.node, flags, pick.hash).unpack_skb()
        };
    }
    if !is_segmented_later(ctx)
        && let Some(fits) = encap::would_fit(node, packet.length)
    {
        return Ok((TOO_BIG + fits) as i32);
    }
    vlan::discard(ctx)?;
    let label = Label::backend(config, backend.id);
    encap::send_skb(ctx, config, node, packet, pick.hash, label)
}

/// Whether a packet goes on as nothing that nodes send each other: to a real server, or translated.
#[inline(always)]
fn is_outside(service: &ServiceEntry, node: &NodeEntry) -> bool {
    node.flags & NODE_SERVER | service.flags & SERVICE_NAT != 0
}

/// Whether a packet that is [outside](is_outside) is translated. At a node port every one is: it is
/// addressed to this node itself, and a server that gets it as it is has no such address.
#[inline(always)]
fn is_translated(pick: &Pick) -> bool {
    pick.service.flags & SERVICE_NAT != 0 || pick.found.is_at_node_port()
}

/// Sends a frame as it is to a node of this segment, which makes the same pick. The sender's address
/// says that it came from a node and must not be passed on again.
#[inline(always)]
fn pass_on(ctx: &XdpContext, config: &Config, node: &NodeEntry) -> Result<u32, DropReason> {
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { Ethernet::readdress(ethernet, node.mac, mac::of_node(config.node_id)) };
    Ok(SENT_ON)
}
