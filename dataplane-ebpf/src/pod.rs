//! TC on the host's end of a pod's veth: what the pod sends.

use core::ptr;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_OK};
use aya_ebpf::helpers::bpf_redirect_neigh;
use aya_ebpf::programs::TcContext;
use fairlead_dataplane_common::{
    Address, Config, DropReason, PodEntry, ROUTE_LOCAL, ROUTE_NODE_HOST, ROUTE_PODS, hash,
};

use crate::encap::{self, Label};
use crate::frame::{Frame, pull};
use crate::header::{ETHERTYPE_ARP_BE, ETHERTYPE_IPV4_BE, ETHERTYPE_IPV6_BE, Ethernet};
use crate::maps::PODS;
use crate::parse::{Family, HEADERS, Packet, Shape};
use crate::stage::{ANSWER_ERROR, ANSWER_FRAGMENT};
use crate::verdict::{Pack, Packed, Unpack};
use crate::{lookup, parse, reply};

/// ff02::16.
const ALL_MLD_ROUTERS: Address =
    Address::from_bytes([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16]);

/// Lets a pod send in its own name only; answers to a VIP's clients get the VIP's; then by route to
/// a pod here, to another node, or to the stack and the outside.
#[inline(always)]
pub fn send(ctx: &TcContext) -> Result<i32, DropReason> {
    pull(ctx, HEADERS)?;
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    match unsafe { (*ethernet).ethertype_be } {
        ETHERTYPE_IPV4_BE | ETHERTYPE_IPV6_BE => {}
        ETHERTYPE_ARP_BE => return Ok(TC_ACT_OK),
        _ => return Err(DropReason::UnsupportedFamily),
    }
    let pod = sender(ctx).ok_or(DropReason::Spoofed)?;
    let skb = ctx.skb.skb;
    match admit(skb, pod).unpack_skb()? {
        ANSWER_FRAGMENT => reply::translate_fragment(skb, pod.vpc).unpack()?,
        ANSWER_ERROR => reply::translate_error(skb, pod.vpc).unpack()?,
        action => return Ok(action),
    };
    route_anew(skb, pod.vpc).unpack_skb()
}

/// All that is done with a packet that shows its ports.
#[inline(never)]
fn admit(skb: *mut __sk_buff, pod: &PodEntry) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, pod.vpc)
        .and_then(|packet| try_admit(ctx, pod, packet))
        .pack()
}

#[inline(always)]
fn try_admit(ctx: &TcContext, pod: &PodEntry, mut packet: Packet) -> Result<i32, DropReason> {
    if packet.family == Family::V6 {
        if !pod.has_ipv6() {
            return Err(DropReason::UnsupportedFamily);
        }
        // What belongs to the link goes to this host and no further.
        if packet.shape == Shape::Discovery || is_membership_report(&packet) {
            return Ok(TC_ACT_OK);
        }
    }
    if !pod.owns(&packet.flow.source) {
        return Err(DropReason::Spoofed);
    }
    let config = lookup::config()?;
    match packet.shape {
        Shape::Ports => reply::translate(ctx, config, &mut packet)?,
        Shape::FirstFragment | Shape::LaterFragment => return Ok(ANSWER_FRAGMENT),
        Shape::Error => return Ok(ANSWER_ERROR),
        _ => {}
    }
    route(ctx, config, &packet)
}

/// The rest of what is done with any other: it has the name in which it leaves.
#[inline(never)]
#[unsafe(export_name = "pod_route_anew")]
extern "C" fn route_anew(skb: *mut __sk_buff, vpc: u32) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, vpc)
        .and_then(|packet| route(ctx, lookup::config()?, &packet))
        .pack()
}

#[inline(always)]
fn route(ctx: &TcContext, config: &Config, packet: &Packet) -> Result<i32, DropReason> {
    let flow = &packet.flow;
    let Some(route) = lookup::route(flow.vpc, flow.destination) else {
        if config.is_own(&flow.source) {
            // The answer to a client of a node port. The stack takes no packet in that claims to come
            // from the host itself (`fib_validate_source` of net/ipv4/fib_frontend.c).
            // SAFETY: no parameters: the stack routes by the packet's destination.
            return Ok(unsafe {
                bpf_redirect_neigh(config.uplink_ifindex, ptr::null_mut(), 0, 0) as i32
            });
        }
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
            encap::send_skb(
                ctx,
                config,
                node,
                packet,
                hash,
                Label::node(config, node.id),
            )
        }
        _ => Err(DropReason::NoRoute),
    }
}

/// Whether a pod's kernel tells which groups it listens to (RFC 3810 §5.2.14): a packet with a
/// hop-by-hop option, and from `::`, as the link has no address of its own.
#[inline(always)]
fn is_membership_report(packet: &Packet) -> bool {
    packet.shape == Shape::Options && packet.flow.destination == ALL_MLD_ROUTERS
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
