//! TC on an uplink: what XDP handed up, and what leaves.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
    BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_OK, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::programs::TcContext;
use core::mem;
use fairlead_dataplane_common::{
    Address, BackendEntry, Config, DropReason, FlowKey, NODE_LOCAL, ROUTE_LOCAL, ROUTE_PODS,
    ROUTE_UNREACHABLE, hash, mac, protocol,
};

use crate::encap::{self, Label};
use crate::frame::{Frame, is_passed_on, pull};
use crate::header::{Ethernet, Udp, Vxlan};
use crate::maps::{UPLINKS, VPCS};
use crate::parse::{Family, HEADERS, Packet, Shape};
use crate::pick::{self, Choice};
use crate::server::TOO_BIG;
use crate::stage::{
    BALANCE, COME_BACK, DELIVER, DELIVER_ELSEWHERE, DELIVER_ERROR, DELIVER_LAST, FROM_POD,
    MASQUERADE, NO_SERVICE, PLAIN, REFUSE, SEND, TAKE_OPTIONS_OFF, TRANSLATE, TRANSLATE_ANSWER,
};
use crate::verdict::{Pack, Packed, Refusal, Unpack};
use crate::vlan::{self, Outer};
use crate::{
    forward, fragment, lookup, nat, options, parse, reply, reset, second_chance, snat, too_big,
};

/// Bytes of the headers this side looks at, the outer ones included.
const ALL_HEADERS: u32 = encap::OVERHEAD_V6 as u32 + HEADERS;

/// A packet that the uplink received and XDP passed.
#[inline(always)]
pub fn receive(ctx: &TcContext) -> Result<i32, Refusal> {
    pull(ctx, ALL_HEADERS)?;
    if is_passed_on(ctx)? && !is_addressed(ctx)? {
        return Ok(TC_ACT_OK);
    }
    let mut outer = Outer::NONE;
    if vlan::is_tag(ethertype(ctx)?) {
        outer = vlan::pop(ctx.skb.skb);
        pull(ctx, ALL_HEADERS)?;
    }
    let action = if Family::of(ethertype(ctx)?).is_some() {
        let mut action = decapsulate(ctx.skb.skb).unpack_skb()?;
        if action == PLAIN {
            action = find_flow(ctx.skb.skb).unpack_skb()?;
        } else if action == FROM_POD {
            action = match find_flow(ctx.skb.skb).unpack_skb()? {
                BALANCE => answer()?,
                action => action,
            };
        }
        if action == TAKE_OPTIONS_OFF {
            options::take_off(ctx.skb.skb).unpack()?;
            action = find_flow(ctx.skb.skb).unpack_skb()?;
        }
        if action == BALANCE {
            action = accept(ctx.skb.skb).unpack_refusal()? as i32;
        }
        if action == NO_SERVICE {
            action = without_service(ctx.skb.skb).unpack_skb()?;
        }
        if action == SEND {
            action = send_on(ctx.skb.skb).unpack_refusal()? as i32;
        }
        match action {
            REFUSE => reset::answer_skb(ctx.skb.skb, false).unpack_refusal()? as i32,
            DELIVER => second_chance::deliver(ctx)?,
            DELIVER_ELSEWHERE => second_chance::redirect(ctx)?,
            DELIVER_LAST => reply::deliver(ctx.skb.skb, false).unpack_skb()?,
            DELIVER_ERROR => reply::deliver_error(ctx.skb.skb).unpack_skb()?,
            COME_BACK => snat::come_back(ctx.skb.skb).unpack_skb()?,
            TRANSLATE => {
                let tag = mem::replace(&mut outer, Outer::NONE);
                nat::send_skb(ctx.skb.skb, tag)?
            }
            TRANSLATE_ANSWER => {
                let action = nat::answer_skb(ctx.skb.skb)?;
                if action != TC_ACT_OK {
                    outer = Outer::NONE;
                }
                action
            }
            action if action >= TOO_BIG as i32 => {
                too_big::answer_skb(ctx.skb.skb, action as u32 - TOO_BIG).unpack_skb()?
            }
            action => action,
        }
    } else {
        TC_ACT_OK
    };
    if outer != Outer::NONE && !vlan::push(ctx.skb.skb, outer, action) {
        return Err(DropReason::RewriteFailed.into());
    }
    Ok(action)
}

/// A pod's packet for the node itself, of the flow that was found.
#[inline(always)]
fn answer() -> Result<i32, DropReason> {
    let flow = pick::flow()?;
    if !nat::is_port(flow.destination_port_be) {
        return Ok(TC_ACT_OK);
    }
    nat::begin_answer(flow)?;
    Ok(TRANSLATE_ANSWER)
}

/// A packet that no node has encapsulated, of the flow that was found.
#[inline(never)]
#[unsafe(export_name = "uplink_accept")]
extern "C" fn accept(skb: *mut __sk_buff) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, 0)
        .map_err(Refusal::from)
        .and_then(|packet| try_accept(ctx, &packet))
        .pack()
}

#[inline(always)]
fn try_accept(ctx: &TcContext, packet: &Packet) -> Result<i32, Refusal> {
    let config = lookup::config()?;
    let flow = *pick::flow()?;
    let Some(frontend) = lookup::external(config, &flow) else {
        return Ok(NO_SERVICE);
    };
    let glance = pick::glance(config, frontend, &flow)?;
    if glance.is_open(frontend) {
        pick::ask(ctx, frontend, packet, &flow, &glance)?;
    }
    match pick::choose(frontend, packet, &glance)? {
        Choice::Send(pick) => {
            pick::keep(config, frontend, &pick)?;
            Ok(SEND)
        }
        Choice::Refuse => {
            reset::begin(frontend.service)?;
            Ok(REFUSE)
        }
    }
}

/// A packet whose flow is for no service: it may be an answer, and is the node's own otherwise.
#[inline(never)]
#[unsafe(export_name = "uplink_without_service")]
extern "C" fn without_service(skb: *mut __sk_buff) -> Packed {
    try_without_service(&TcContext::new(skb)).pack()
}

#[inline(always)]
fn try_without_service(ctx: &TcContext) -> Result<i32, DropReason> {
    let config = lookup::config()?;
    let flow = pick::flow()?;
    if !config.is_own(&flow.destination) {
        return if lookup::is_vip(config, flow.vpc, flow.destination) {
            Err(DropReason::UnknownPort)
        } else {
            Ok(TC_ACT_OK)
        };
    }
    if nat::is_port(flow.destination_port_be) {
        nat::begin_answer(flow)?;
        return Ok(TRANSLATE_ANSWER);
    }
    match Family::of(ethertype(ctx)?) {
        Some(Family::V4) => Ok(COME_BACK),
        _ => Ok(TC_ACT_OK),
    }
}

/// Sends a packet to the backend that [`accept`] picked. A stage of its own: both need much of the stack.
#[inline(never)]
#[unsafe(export_name = "uplink_send_on")]
extern "C" fn send_on(skb: *mut __sk_buff) -> Packed {
    try_send_on(&TcContext::new(skb)).pack()
}

#[inline(always)]
fn try_send_on(ctx: &TcContext) -> Result<i32, Refusal> {
    let config = lookup::config()?;
    let (service_slot, pick) = pick::kept()?;
    parse::of(ctx, 0)
        .and_then(|packet| forward::send_skb(ctx, config, &packet, pick::flow()?, &pick))
        .map_err(|reason| Refusal::of_service(reason, service_slot))
}

/// Finds the flow that a packet belongs to, also if it does not show its ports.
#[inline(never)]
#[unsafe(export_name = "uplink_find_flow")]
extern "C" fn find_flow(skb: *mut __sk_buff) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, 0)
        .and_then(|packet| try_find_flow(ctx, &packet, pick::flow()?))
        .pack()
}

#[inline(always)]
fn try_find_flow(ctx: &TcContext, packet: &Packet, flow: &mut FlowKey) -> Result<i32, DropReason> {
    *flow = packet.flow;
    if packet.shape == Shape::Ports {
        return Ok(BALANCE);
    }
    let config = lookup::config()?;
    let is_for_node = config.is_own(&packet.flow.destination);
    let is_vip = lookup::is_vip(config, packet.flow.vpc, packet.flow.destination);
    if !is_vip && !is_for_node {
        return Ok(TC_ACT_OK);
    }
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
            if flow.destination != packet.flow.destination
                || lookup::external(config, flow).is_none()
            {
                return Err(DropReason::ForeignError);
            }
        }
        Shape::Error => {
            // About what was translated or balanced at the node's own address, if it is ours.
            let Ok(Some(quoted)) = parse::quoted(ctx, packet) else {
                return Ok(TC_ACT_OK);
            };
            if quoted.destination == packet.flow.destination {
                *flow = quoted;
            }
        }
        Shape::Discovery => return Ok(TC_ACT_OK),
        Shape::Options if is_vip => {
            return match packet.family {
                Family::V4 => Ok(TAKE_OPTIONS_OFF),
                Family::V6 => Err(DropReason::IpOptions),
            };
        }
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

/// Encapsulates what is for pods of other nodes. What leaves the cluster is masqueraded in IPv4; in
/// IPv6 pods have addresses of their own.
#[inline(never)]
#[unsafe(export_name = "uplink_leave")]
extern "C" fn leave(skb: *mut __sk_buff) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, 0)
        .and_then(|packet| try_leave(ctx, &packet))
        .pack()
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

/// A packet that another node encapsulated for this one: for the backend it names, for a pod by its
/// address, or for the node itself.
#[inline(never)]
#[unsafe(export_name = "uplink_decapsulate")]
extern "C" fn decapsulate(skb: *mut __sk_buff) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, 0)
        .and_then(|outer| try_decapsulate(ctx, &outer))
        .pack()
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
            arrive(ctx, config, &packet, room, &inner)
        }
        Family::V6 => {
            let packet = parse::ipv6(ctx, vni)?;
            arrive(ctx, config, &packet, room, &inner)
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

/// A packet that was encapsulated for whom `label` names in an outer one that had `room` for it,
/// without its outer headers.
#[inline(always)]
fn arrive(
    ctx: &TcContext,
    config: &Config,
    packet: &Packet,
    room: u32,
    label: &Ethernet,
) -> Result<i32, DropReason> {
    if packet.length > room {
        return Err(DropReason::Malformed);
    }
    let flow = &packet.flow;
    if let Some(id) = mac::backend_of(label.destination) {
        let chances_left = mac::chances_left(label.source).unwrap_or(mac::SECOND_CHANCES_MAX);
        let is_here =
            |backend: &BackendEntry| backend.node == NODE_LOCAL && backend.vpc == flow.vpc;
        let slot = match lookup::named_backend(id) {
            Some((slot, backend)) if is_here(backend) => slot,
            _ => return second_chance::hand_in(config, packet, chances_left),
        };
        let kind = if chances_left == 0 {
            DELIVER_LAST
        } else {
            DELIVER
        };
        return match packet.shape {
            Shape::Ports | Shape::LaterFragment => reply::hand_on(flow, slot, chances_left, kind),
            Shape::FirstFragment => {
                let flow = fragment::flow(ctx, packet)?.ok_or(fragment::unknown(packet))?;
                reply::hand_on(&flow, slot, chances_left, kind)
            }
            Shape::Error => {
                let flow = parse::quoted(ctx, packet)?.ok_or(DropReason::ForeignError)?;
                reply::hand_in(&flow, slot, DELIVER_ERROR)
            }
            _ => Err(DropReason::UnknownBackend),
        };
    }
    if flow.vpc == 0 && config.is_own(&flow.destination) {
        return Ok(FROM_POD);
    }
    let endpoint = lookup::endpoint(flow.vpc, flow.destination).ok_or(DropReason::NoEndpoint)?;
    reply::hand_over(ctx, endpoint)
}

/// Whether a frame has the address of the uplink it came in by. A switch that has lost the node it is for
/// floods it, and others must not take it for theirs: the stack drops what is another's.
#[inline(always)]
fn is_addressed(ctx: &TcContext) -> Result<bool, DropReason> {
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked; and the context is the program's own.
    let (destination, ifindex) = unsafe { ((*ethernet).destination, (*ctx.skb.skb).ifindex) };
    // SAFETY: the agent never changes an entry in place, and the kernel keeps a removed one readable
    // until the program has ended.
    let uplink = unsafe { UPLINKS.get(&ifindex) };
    Ok(uplink.is_none_or(|uplink| uplink.mac == destination))
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
