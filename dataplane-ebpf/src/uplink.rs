//! TC on an uplink: what XDP handed up, and what leaves.

use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO,
    TC_ACT_OK, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::programs::TcContext;
use core::mem;
use fairlead_dataplane_common::{
    Address, Config, DropReason, NODE_LOCAL, ROUTE_LOCAL, ROUTE_PODS, ROUTE_UNREACHABLE, hash, mac,
    protocol,
};

use crate::encap::{self, Label};
use crate::frame::{Frame, pull};
use crate::header::{Ethernet, Udp, Vxlan};
use crate::maps::VPCS;
use crate::parse::{Family, HEADERS, Packet, Shape};
use crate::vlan::{self, Outer};
use crate::{forward, lookup, parse, pick, reply, snat};

/// Bytes of the headers this side looks at, the outer ones included.
const ALL_HEADERS: u32 = encap::OVERHEAD_V6 as u32 + HEADERS;

/// A packet that the uplink received and XDP passed.
#[inline(always)]
pub fn receive(ctx: &TcContext) -> Result<i32, DropReason> {
    pull(ctx, ALL_HEADERS)?;
    let mut outer = Outer::NONE;
    if vlan::is_tag(ethertype(ctx)?) {
        outer = vlan::pop(ctx.skb.skb);
        pull(ctx, ALL_HEADERS)?;
    }
    let action = match Family::of(ethertype(ctx)?) {
        Some(Family::V4) => accept(ctx, &parse::ipv4(ctx, 0)?),
        Some(Family::V6) => accept(ctx, &parse::ipv6(ctx, 0)?),
        None => Ok(TC_ACT_OK),
    }?;
    if outer != Outer::NONE && !vlan::push(ctx.skb.skb, outer, action) {
        return Err(DropReason::RewriteFailed);
    }
    Ok(action)
}

#[inline(always)]
fn accept(ctx: &TcContext, packet: &Packet) -> Result<i32, DropReason> {
    let config = lookup::config()?;
    if packet.flow.destination == config.node_address {
        if packet.shape == Shape::Ports
            && packet.flow.protocol == protocol::UDP
            && packet.flow.destination_port_be == config.vxlan_port_be
        {
            return decapsulate(ctx, config, packet);
        }
        return match packet.family {
            Family::V4 => snat::come_back(ctx, packet),
            Family::V6 => Ok(TC_ACT_OK),
        };
    }
    balance(ctx, config, packet)
}

/// A packet that the stack sends by the uplink.
#[inline(always)]
pub fn send(ctx: &TcContext) -> Result<i32, DropReason> {
    pull(ctx, HEADERS)?;
    match Family::of(ethertype(ctx)?) {
        Some(Family::V4) => leave(ctx, &parse::ipv4(ctx, 0)?),
        Some(Family::V6) => leave(ctx, &parse::ipv6(ctx, 0)?),
        None => Ok(TC_ACT_OK),
    }
}

/// Encapsulates what is for pods of other nodes. What leaves the cluster is masqueraded in IPv4; in
/// IPv6 pods have addresses of their own.
#[inline(always)]
fn leave(ctx: &TcContext, packet: &Packet) -> Result<i32, DropReason> {
    let config = lookup::config()?;
    let flow = &packet.flow;
    if let Some(route) = lookup::route(flow.vpc, flow.destination) {
        return match route.kind {
            ROUTE_PODS => {
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
            ROUTE_LOCAL => Err(DropReason::NoEndpoint),
            ROUTE_UNREACHABLE => Err(DropReason::NoRoute),
            _ => Ok(TC_ACT_OK),
        };
    }
    if packet.family == Family::V4 && is_from_pod(config, flow.source) {
        return snat::leave(ctx, config, packet);
    }
    Ok(TC_ACT_OK)
}

/// The same as in XDP, for what XDP could not finish.
#[inline(always)]
fn balance(ctx: &TcContext, config: &Config, packet: &Packet) -> Result<i32, DropReason> {
    if packet.shape == Shape::Ports
        && let Some(frontend) = lookup::external(config, &packet.flow)
    {
        let pick = pick::pick(config, frontend, &packet.flow)?;
        return forward::send_skb(ctx, config, packet, &packet.flow, &pick);
    }
    if !lookup::is_vip(config, packet.flow.vpc, packet.flow.destination) {
        return Ok(TC_ACT_OK);
    }
    match packet.shape {
        Shape::Error => {
            let flow = parse::quoted(ctx, packet)?.ok_or(DropReason::ForeignError)?;
            let frontend = lookup::external(config, &flow).ok_or(DropReason::ForeignError)?;
            let pick = pick::pick(config, frontend, &flow)?;
            forward::send_skb(ctx, config, packet, &flow, &pick)
        }
        Shape::Discovery => Ok(TC_ACT_OK),
        Shape::Ports => Err(DropReason::UnknownPort),
        Shape::Fragment => Err(DropReason::Fragment),
        Shape::Options => Err(DropReason::IpOptions),
        Shape::EchoRequest | Shape::EchoReply | Shape::Other => {
            Err(DropReason::UnsupportedProtocol)
        }
    }
}

/// A packet that another node encapsulated for this one: for the backend it names, for a pod by its
/// address, or for the node itself.
#[inline(always)]
fn decapsulate(ctx: &TcContext, config: &Config, outer: &Packet) -> Result<i32, DropReason> {
    if !lookup::is_node(outer.flow.source) {
        return Err(DropReason::UnknownPeer);
    }
    let vxlan: *mut Vxlan = ctx.header(outer.family.transport() + mem::size_of::<Udp>())?;
    let inner: *mut Ethernet = ctx.header(encap::overhead(outer.family))?;
    // SAFETY: in bounds, as `header` has checked.
    let (vxlan, inner) = unsafe { (*vxlan, *inner) };
    let family = Family::of(inner.ethertype_be).ok_or(DropReason::Malformed)?;
    if vxlan.flags_be & Vxlan::VNI_VALID_BE == 0 {
        return Err(DropReason::Malformed);
    }
    let vni = vxlan.vni();
    if vni != 0 && VPCS.get_ptr(vni).is_none() {
        return Err(DropReason::UnknownVni);
    }
    let room = outer
        .length
        .saturating_sub(encap::overhead(outer.family) as u32);
    strip(ctx, outer.family, family)?;
    match family {
        Family::V4 => {
            let packet = parse::ipv4(ctx, vni)?;
            arrive(ctx, config, &packet, room, inner.destination)
        }
        Family::V6 => {
            let packet = parse::ipv6(ctx, vni)?;
            arrive(ctx, config, &packet, room, inner.destination)
        }
    }
}

/// Takes the outer headers off. What goes is the outer IP header up to the inner Ethernet header; the
/// outer Ethernet header stays and is the packet's own from now on.
#[inline(always)]
fn strip(ctx: &TcContext, outer: Family, inner: Family) -> Result<(), DropReason> {
    // Naming the inner family needs Linux 6.3, and is needed only where it is another.
    let family = match (outer, inner) {
        (Family::V4, Family::V6) => BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
        (Family::V6, Family::V4) => BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
        (Family::V4, Family::V4) | (Family::V6, Family::V6) => 0,
    };
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO) | u64::from(family);
    let removed = encap::overhead(outer) as i32;
    ctx.adjust_room(-removed, BPF_ADJ_ROOM_MAC, flags)
        .map_err(|_| DropReason::EncapsulationFailed)?;
    pull(ctx, HEADERS)?;
    encap::set_ethertype(ctx, outer, inner)
}

/// A packet that was encapsulated for `named` in an outer one that had `room` for it, without its outer
/// headers.
#[inline(always)]
fn arrive(
    ctx: &TcContext,
    config: &Config,
    packet: &Packet,
    room: u32,
    named: [u8; 6],
) -> Result<i32, DropReason> {
    if packet.length > room {
        return Err(DropReason::Malformed);
    }
    let flow = &packet.flow;
    if let Some(id) = mac::backend_of(named) {
        let backend = lookup::named_backend(id).ok_or(DropReason::UnknownBackend)?;
        if backend.node != NODE_LOCAL || backend.vpc != flow.vpc {
            return Err(DropReason::UnknownBackend);
        }
        return match packet.shape {
            Shape::Ports => reply::deliver(ctx, packet, backend),
            Shape::Error => {
                let flow = parse::quoted(ctx, packet)?.ok_or(DropReason::ForeignError)?;
                reply::deliver_error(ctx, packet, &flow, backend)
            }
            _ => Err(DropReason::UnknownBackend),
        };
    }
    if flow.vpc == 0 && flow.destination == config.node_address {
        return Ok(TC_ACT_OK);
    }
    let endpoint = lookup::endpoint(flow.vpc, flow.destination).ok_or(DropReason::NoEndpoint)?;
    reply::hand_over(ctx, endpoint)
}

#[inline(always)]
fn ethertype(ctx: &TcContext) -> Result<u16, DropReason> {
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    Ok(unsafe { (*ethernet).ethertype_be })
}

/// Whether `address` is in the range of the pods here.
#[inline(always)]
fn is_from_pod(config: &Config, address: Address) -> bool {
    !config.pod_prefix.is_unspecified() && address.masked(&config.pod_mask) == config.pod_prefix
}
