//! TC on an uplink: what XDP handed up, and what leaves.

use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_OK, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::programs::TcContext;
use core::mem;
use fairlead_dataplane_common::{
    Address, Config, DropReason, NODE_LOCAL, ROUTE_LOCAL, ROUTE_PODS, ROUTE_UNREACHABLE, hash, mac,
    protocol,
};

use crate::frame::{Frame, pull};
use crate::header::{ETHERTYPE_IPV4_BE, Ethernet, Ipv4, NETWORK, TRANSPORT, Tcp, Udp, Vxlan};
use crate::maps::VPCS;
use crate::parse::{Packet, Shape};
use crate::{encap, lookup, parse, reply, snat, stats};

/// Bytes of the headers this side looks at: up to the inner TCP header's end.
const HEADERS: u32 = (encap::OVERHEAD + TRANSPORT + mem::size_of::<Tcp>()) as u32;

/// A packet that the uplink received and XDP passed.
#[inline(always)]
pub fn receive(ctx: &TcContext) -> Result<i32, DropReason> {
    pull(ctx, HEADERS)?;
    if !is_ipv4(ctx)? {
        return Ok(TC_ACT_OK);
    }
    let packet = parse::ipv4(ctx, 0)?;
    let config = lookup::config()?;
    if packet.flow.destination == config.node_address {
        if packet.shape == Shape::Ports
            && packet.flow.protocol == protocol::UDP
            && packet.flow.destination_port_be == config.vxlan_port_be
        {
            return decapsulate(ctx, config, &packet);
        }
        return snat::come_back(ctx, &packet);
    }
    balance(ctx, config, &packet)
}

/// A packet that the stack sends by the uplink.
#[inline(always)]
pub fn send(ctx: &TcContext) -> Result<i32, DropReason> {
    pull(ctx, (TRANSPORT + mem::size_of::<Tcp>()) as u32)?;
    if !is_ipv4(ctx)? {
        return Ok(TC_ACT_OK);
    }
    let packet = parse::ipv4(ctx, 0)?;
    let config = lookup::config()?;
    let flow = &packet.flow;
    if let Some(route) = lookup::route(flow.vpc, flow.destination) {
        return match route.kind {
            ROUTE_PODS => {
                let node = lookup::node(route.node).ok_or(DropReason::NoRoute)?;
                let hash = hash::flow(&config.seed, flow);
                encap::send_skb(ctx, config, node, &packet, hash, mac::of_node(node.id))
            }
            ROUTE_LOCAL => Err(DropReason::NoEndpoint),
            ROUTE_UNREACHABLE => Err(DropReason::NoRoute),
            _ => Ok(TC_ACT_OK),
        };
    }
    if is_from_pod(config, flow.source) {
        return snat::leave(ctx, config, &packet);
    }
    Ok(TC_ACT_OK)
}

/// The same pick as in XDP, for what XDP could not finish: a pod of this node, or a node whose
/// neighbour the stack has to resolve.
#[inline(always)]
fn balance(ctx: &TcContext, config: &Config, packet: &Packet) -> Result<i32, DropReason> {
    if packet.shape == Shape::Ports
        && let Some(frontend) = lookup::external(config, &packet.flow)
    {
        let hash = hash::flow(&config.seed, &packet.flow);
        let backend = lookup::pick(config, frontend.service, hash)?;
        stats::packet(frontend.service, ctx.length(), packet.opens);
        if backend.node == NODE_LOCAL {
            return reply::deliver(ctx, packet, backend);
        }
        let node = lookup::node(backend.node).ok_or(DropReason::NoBackend)?;
        return encap::send_skb(ctx, config, node, packet, hash, mac::of_backend(backend.id));
    }
    if lookup::is_vip(config, packet.flow.vpc, packet.flow.destination) {
        return Err(match packet.shape {
            Shape::Ports => DropReason::UnknownPort,
            Shape::Fragment => DropReason::Fragment,
            Shape::Options => DropReason::IpOptions,
            Shape::EchoRequest | Shape::EchoReply | Shape::Other => DropReason::UnsupportedProtocol,
        });
    }
    Ok(TC_ACT_OK)
}

/// A packet that another node encapsulated for this one: for the backend it names, for a pod by its
/// address, or for the node itself.
#[inline(always)]
fn decapsulate(ctx: &TcContext, config: &Config, outer: &Packet) -> Result<i32, DropReason> {
    if !lookup::is_node(outer.flow.source) {
        return Err(DropReason::UnknownPeer);
    }
    let vxlan: *mut Vxlan = ctx.header(TRANSPORT + mem::size_of::<Udp>())?;
    let inner: *mut Ethernet = ctx.header(encap::OVERHEAD)?;
    let _: *mut Ipv4 = ctx.header(encap::OVERHEAD + NETWORK)?;
    // SAFETY: in bounds, as `header` has checked.
    let (vxlan, inner) = unsafe { (*vxlan, *inner) };
    if vxlan.flags_be & Vxlan::VNI_VALID_BE == 0 || inner.ethertype_be != ETHERTYPE_IPV4_BE {
        return Err(DropReason::Malformed);
    }
    let vni = vxlan.vni();
    if vni != 0 && VPCS.get_ptr(vni).is_none() {
        return Err(DropReason::UnknownVni);
    }
    // What goes is the outer IP header up to the inner Ethernet header; the outer Ethernet header
    // stays and is the packet's own from now on.
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    ctx.adjust_room(-(encap::OVERHEAD as i32), BPF_ADJ_ROOM_MAC, flags)
        .map_err(|_| DropReason::EncapsulationFailed)?;
    pull(ctx, (TRANSPORT + mem::size_of::<Tcp>()) as u32)?;
    let packet = parse::ipv4(ctx, vni)?;
    if let Some(id) = mac::backend_of(inner.destination) {
        let backend = lookup::named_backend(id).ok_or(DropReason::UnknownBackend)?;
        if backend.node != NODE_LOCAL || backend.vpc != vni || packet.shape != Shape::Ports {
            return Err(DropReason::UnknownBackend);
        }
        return reply::deliver(ctx, &packet, backend);
    }
    if vni == 0 && packet.flow.destination == config.node_address {
        return Ok(TC_ACT_OK);
    }
    let endpoint = lookup::endpoint(vni, packet.flow.destination).ok_or(DropReason::NoEndpoint)?;
    reply::hand_over(ctx, endpoint)
}

#[inline(always)]
fn is_ipv4(ctx: &TcContext) -> Result<bool, DropReason> {
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    Ok(unsafe { (*ethernet).ethertype_be } == ETHERTYPE_IPV4_BE)
}

/// Whether `address` is in the range of the pods here.
#[inline(always)]
fn is_from_pod(config: &Config, address: Address) -> bool {
    !config.pod_prefix.is_unspecified() && address.masked(&config.pod_mask) == config.pod_prefix
}
