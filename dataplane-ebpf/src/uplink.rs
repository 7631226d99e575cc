//! TC on an uplink: what XDP handed up, and what leaves.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
    BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_OK, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::programs::TcContext;
use core::mem;
use fairlead_dataplane_common::{
    Address, Config, DropReason, FlowKey, NODE_LOCAL, ROUTE_LOCAL, ROUTE_PODS, ROUTE_UNREACHABLE,
    hash, mac, protocol,
};

use crate::encap::{self, Label};
use crate::frame::{Frame, pull};
use crate::header::{Ethernet, Udp, Vxlan};
use crate::maps::VPCS;
use crate::parse::{Family, HEADERS, Packet, Shape};
use crate::verdict::Packed;
use crate::vlan::{self, Outer};
use crate::{forward, fragment, lookup, parse, pick, reply, snat};

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
    let action = if Family::of(ethertype(ctx)?).is_some() {
        match decapsulate(ctx.skb.skb).unpack_skb()? {
            PLAIN => accept(ctx.skb.skb).unpack_skb()?,
            action => action,
        }
    } else {
        TC_ACT_OK
    };
    if outer != Outer::NONE && !vlan::push(ctx.skb.skb, outer, action) {
        return Err(DropReason::RewriteFailed);
    }
    Ok(action)
}

/// A packet that no node has encapsulated.
#[inline(never)]
fn accept(skb: *mut __sk_buff) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, 0)
        .and_then(|packet| try_accept(ctx, &packet))
        .into()
}

#[inline(always)]
fn try_accept(ctx: &TcContext, packet: &Packet) -> Result<i32, DropReason> {
    let config = lookup::config()?;
    let is_for_node = config.is_own(&packet.flow.destination);
    let flow = if packet.shape == Shape::Ports {
        packet.flow
    } else {
        let mut flow = FlowKey::default();
        match without_ports(ctx.skb.skb, &mut flow).unpack_skb()? {
            BALANCE => flow,
            action => return Ok(action),
        }
    };
    if let Some(frontend) = lookup::external(config, &flow) {
        let pick = pick::pick(config, frontend, &flow)?;
        return forward::send_skb(ctx, config, packet, &flow, &pick);
    }
    if is_for_node {
        return match packet.family {
            Family::V4 => snat::come_back(ctx.skb.skb).unpack_skb(),
            Family::V6 => Ok(TC_ACT_OK),
        };
    }
    if lookup::is_vip(config, flow.vpc, flow.destination) {
        return Err(DropReason::UnknownPort);
    }
    Ok(TC_ACT_OK)
}

/// No action of TC but of [`without_ports`]: the packet may be for a service, by the flow that was
/// found.
const BALANCE: i32 = i32::MAX;

/// What does not show its ports. If it belongs to a flow all the same, that goes to `flow`.
#[inline(never)]
fn without_ports(skb: *mut __sk_buff, flow: &mut FlowKey) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, 0)
        .and_then(|packet| try_without_ports(ctx, &packet, flow))
        .into()
}

#[inline(always)]
fn try_without_ports(
    ctx: &TcContext,
    packet: &Packet,
    flow: &mut FlowKey,
) -> Result<i32, DropReason> {
    let config = lookup::config()?;
    let is_for_node = config.is_own(&packet.flow.destination);
    let is_vip = lookup::is_vip(config, packet.flow.vpc, packet.flow.destination);
    if !is_vip && !is_for_node {
        return Ok(TC_ACT_OK);
    }
    *flow = packet.flow;
    match packet.shape {
        Shape::FirstFragment | Shape::LaterFragment => match fragment::flow(ctx, packet)? {
            Some(found) => {
                *flow = found;
                if lookup::external(config, flow).is_some() {
                    fragment::note(ctx, packet, flow)?;
                }
            }
            None if is_vip => return Err(fragment::unknown(packet)),
            None => {}
        },
        Shape::Error if is_vip => {
            *flow = parse::quoted(ctx, packet)?.ok_or(DropReason::ForeignError)?;
            if lookup::external(config, flow).is_none() {
                return Err(DropReason::ForeignError);
            }
        }
        Shape::Discovery => return Ok(TC_ACT_OK),
        Shape::Options if is_vip => return Err(DropReason::IpOptions),
        _ if is_vip => return Err(DropReason::UnsupportedProtocol),
        _ => {}
    }
    Ok(BALANCE)
}

/// A packet that the stack sends by the uplink.
#[inline(always)]
pub fn send(ctx: &TcContext) -> Result<i32, DropReason> {
    pull(ctx, HEADERS)?;
    if Family::of(ethertype(ctx)?).is_none() {
        return Ok(TC_ACT_OK);
    }
    match leave(ctx.skb.skb).unpack_skb()? {
        MASQUERADE => snat::leave(ctx.skb.skb).unpack_skb(),
        action => Ok(action),
    }
}

/// No action of TC but of [`leave`]: the packet leaves the cluster in the node's name.
const MASQUERADE: i32 = i32::MAX - 2;

/// Encapsulates what is for pods of other nodes. What leaves the cluster is masqueraded in IPv4; in
/// IPv6 pods have addresses of their own.
#[inline(never)]
fn leave(skb: *mut __sk_buff) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, 0)
        .and_then(|packet| try_leave(ctx, &packet))
        .into()
}

#[inline(always)]
fn try_leave(ctx: &TcContext, packet: &Packet) -> Result<i32, DropReason> {
    let config = lookup::config()?;
    let flow = &packet.flow;
    if let Some(route) = lookup::route(flow.vpc, flow.destination) {
        return match route.kind {
            ROUTE_PODS => {
                let node = lookup::node(route.node).ok_or(DropReason::NoRoute)?;
                let hash = hash::flow(&config.seed, flow);
                let label = Label::node(config, node.id);
                encap::send_skb(ctx, config, node, packet, hash, label)
            }
            ROUTE_LOCAL => Err(DropReason::NoEndpoint),
            ROUTE_UNREACHABLE => Err(DropReason::NoRoute),
            _ => Ok(TC_ACT_OK),
        };
    }
    if packet.family == Family::V4 && is_from_pod(config, flow.source) {
        return Ok(MASQUERADE);
    }
    Ok(TC_ACT_OK)
}

/// No action of TC but of [`decapsulate`]: the packet is not encapsulated for this node.
const PLAIN: i32 = i32::MAX - 1;

/// A packet that another node encapsulated for this one: for the backend it names, for a pod by its
/// address, or for the node itself.
#[inline(never)]
fn decapsulate(skb: *mut __sk_buff) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, 0)
        .and_then(|outer| try_decapsulate(ctx, &outer))
        .into()
}

#[inline(always)]
fn try_decapsulate(ctx: &TcContext, outer: &Packet) -> Result<i32, DropReason> {
    let config = lookup::config()?;
    if outer.flow.destination != config.node_address
        || outer.shape != Shape::Ports
        || outer.flow.protocol != protocol::UDP
        || outer.flow.destination_port_be != config.vxlan_port_be
    {
        return Ok(PLAIN);
    }
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
            Shape::Ports | Shape::LaterFragment => {
                reply::deliver(ctx.skb.skb, flow, backend).unpack_skb()
            }
            Shape::FirstFragment => {
                let flow = fragment::flow(ctx, packet)?.ok_or(fragment::unknown(packet))?;
                reply::deliver(ctx.skb.skb, &flow, backend).unpack_skb()
            }
            Shape::Error => {
                let flow = parse::quoted(ctx, packet)?.ok_or(DropReason::ForeignError)?;
                reply::deliver_error(ctx.skb.skb, &flow, backend).unpack_skb()
            }
            _ => Err(DropReason::UnknownBackend),
        };
    }
    if flow.vpc == 0 && config.is_own(&flow.destination) {
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
