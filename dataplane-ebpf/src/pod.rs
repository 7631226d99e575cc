//! TC on the host's end of a pod's veth: what the pod sends.

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::programs::TcContext;
use core::mem;
use fairlead_dataplane_common::{
    DropReason, PodEntry, ROUTE_LOCAL, ROUTE_NODE_HOST, ROUTE_PODS, hash, mac,
};

use crate::frame::{Frame, pull};
use crate::header::{ETHERTYPE_ARP_BE, ETHERTYPE_IPV4_BE, Ethernet, TRANSPORT, Tcp};
use crate::maps::PODS;
use crate::parse::Shape;
use crate::{encap, lookup, parse, reply};

/// Lets a pod send in its own name only; answers to a VIP's clients get the VIP's; then by route to
/// a pod here, to another node, or to the stack and the outside.
#[inline(always)]
pub fn send(ctx: &TcContext) -> Result<i32, DropReason> {
    pull(ctx, (TRANSPORT + mem::size_of::<Tcp>()) as u32)?;
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    match unsafe { (*ethernet).ethertype_be } {
        ETHERTYPE_IPV4_BE => {}
        ETHERTYPE_ARP_BE => return Ok(TC_ACT_OK),
        _ => return Err(DropReason::UnsupportedFamily),
    }
    let pod = sender(ctx).ok_or(DropReason::Spoofed)?;
    let mut packet = parse::ipv4(ctx, pod.vpc)?;
    if packet.flow.source != pod.address {
        return Err(DropReason::Spoofed);
    }
    let config = lookup::config()?;
    if packet.shape == Shape::Ports {
        reply::translate(ctx, &mut packet)?;
    }
    let flow = &packet.flow;
    let Some(route) = lookup::route(flow.vpc, flow.destination) else {
        return Ok(TC_ACT_OK);
    };
    match route.kind {
        ROUTE_LOCAL => {
            let endpoint =
                lookup::endpoint(flow.vpc, flow.destination).ok_or(DropReason::NoEndpoint)?;
            reply::hand_over(ctx, endpoint)
        }
        ROUTE_PODS | ROUTE_NODE_HOST => {
            let node = lookup::node(route.node).ok_or(DropReason::NoRoute)?;
            let hash = hash::flow(&config.seed, flow);
            encap::send_skb(ctx, config, node, &packet, hash, mac::of_node(node.id))
        }
        _ => Err(DropReason::NoRoute),
    }
}

/// The pod behind the veth that the packet came in by.
#[inline(always)]
fn sender(ctx: &TcContext) -> Option<&'static PodEntry> {
    // SAFETY: the context is the program's own.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: the agent never changes an entry in place, and the kernel keeps a removed one readable
    // until the program has ended.
    unsafe { PODS.get(ifindex) }
}
