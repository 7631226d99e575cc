//! XDP on an uplink: VIPs are balanced here, and everything else passes.

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use fairlead_dataplane_common::{Config, Counter, DropReason, FlowKey, checksum, protocol};

use crate::announce::ADVERTISE;
use crate::forward::SENT_ON;
use crate::frame::Frame;
use crate::header::{
    ETHERTYPE_ARP_BE, ETHERTYPE_IPV4_BE, ETHERTYPE_IPV6_BE, ETHERTYPE_PROBE_BE, Ethernet, Icmp,
    Ipv4, Ipv6, NETWORK,
};
use crate::parse::{Family, Packet, Shape};
use crate::pick::{self, Choice};
use crate::verdict::{Pack, Packed, Refusal, Unpack};
use crate::vlan::{self, Tags};
use crate::{announce, decap, forward, fragment, lookup, nat, parse, probe, reset, stats};

/// Sends a packet for a VIP to the node of the backend that its flow picks. Passes what is not for
/// a VIP, what belongs to a pod of this node, and what needs a neighbour resolved first.
#[inline(always)]
pub fn balance(ctx: &XdpContext) -> Result<u32, Refusal> {
    let mut ethertype_be = ethertype(ctx)?;
    let mut tags = Tags::NONE;
    if ethertype_be != ETHERTYPE_IPV4_BE && vlan::is_tag(ethertype_be) {
        tags = vlan::take_off(ctx.ctx);
        nat::hold(tags)?;
        ethertype_be = ethertype(ctx)?;
    }
    let done = balance_untagged(ctx, ethertype_be).pack();
    if tags != Tags::NONE {
        nat::hold(Tags::NONE)?;
    }
    let done = done.unpack_refusal()?;
    if tags != Tags::NONE && done != SENT_ON && !vlan::put_back(ctx.ctx, tags) {
        return Err(DropReason::RewriteFailed.into());
    }
    Ok(forward::action(done))
}

/// The same for a frame whose tags are off: [`SENT_ON`] of one that is not to have them back.
#[inline(always)]
fn balance_untagged(ctx: &XdpContext, ethertype_be: u16) -> Result<u32, Refusal> {
    match ethertype_be {
        ETHERTYPE_IPV4_BE => dispatch(ctx, &parse::ipv4(ctx, 0)?),
        ETHERTYPE_IPV6_BE => dispatch(ctx, &parse::ipv6(ctx, 0)?),
        ETHERTYPE_ARP_BE => Ok(announce::arp(ctx.ctx).unpack()?),
        ETHERTYPE_PROBE_BE => Ok(probe::take(ctx.ctx).unpack()?),
        _ => Ok(XDP_PASS),
    }
}

#[inline(always)]
fn ethertype(ctx: &XdpContext) -> Result<u16, DropReason> {
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    Ok(unsafe { (*ethernet).ethertype_be })
}

/// Compiled once for each family, so that no packet pays for the other.
#[inline(always)]
fn dispatch(ctx: &XdpContext, packet: &Packet) -> Result<u32, Refusal> {
    let flow = match packet.shape {
        Shape::Ports => packet.flow,
        Shape::Discovery => {
            return Ok(match announce::discovery(ctx.ctx).unpack()? {
                ADVERTISE => announce::advertise(ctx.ctx).unpack()?,
                action => action,
            });
        }
        Shape::FirstFragment | Shape::LaterFragment => match fragment(ctx.ctx).unpack()? {
            BALANCE => packet.family.narrowed(pick::flow()?),
            action => return Ok(action),
        },
        _ => match without_ports(ctx.ctx).unpack()? {
            BALANCE => packet.family.narrowed(pick::flow()?),
            DECAPSULATE => return Ok(decap::strip(ctx.ctx).unpack()?),
            ANSWER_ECHO => return Ok(answer_echo(ctx.ctx).unpack()?),
            action => return Ok(action),
        },
    };
    let config = lookup::config()?;
    let Some(frontend) = lookup::external(config, &flow) else {
        return Ok(for_node(ctx, config, packet, &flow)?);
    };
    let glance = pick::glance(config, frontend, &flow)?;
    if glance.is_open(frontend) {
        pick::ask(ctx, frontend, packet, &flow, &glance)?;
        if nat::may_follow(glance.service, frontend, packet) {
            match nat::follow_xdp(ctx)? {
                nat::UNSETTLED => {}
                action => return Ok(action),
            }
        }
    }
    match pick::choose(frontend, packet, &glance)? {
        Choice::Send(pick) => forward::send_xdp(ctx, config, packet, &flow, &pick)
            .map_err(|reason| Refusal::of_service(reason, frontend.service)),
        Choice::Refuse => {
            reset::begin(frontend.service)?;
            reset::answer_xdp(ctx.ctx).unpack_refusal()
        }
    }
}

/// What is for no service: passed, unless it is for the node itself and an answer to what was
/// translated, or a tunnel.
#[inline(always)]
fn for_node(
    ctx: &XdpContext,
    config: &Config,
    packet: &Packet,
    flow: &FlowKey,
) -> Result<u32, DropReason> {
    let is_answer = nat::is_port(flow.destination_port_be);
    if !is_answer && !decap::is_gue(flow) || !config.is_own(&flow.destination) {
        return Ok(XDP_PASS);
    }
    if is_answer {
        nat::begin_answer(flow)?;
        if nat::is_plain(packet) {
            match nat::answer_plain_xdp(ctx)? {
                nat::UNSETTLED => {}
                action => return Ok(action),
            }
        }
        nat::answer_xdp(ctx)
    } else {
        decap::strip(ctx.ctx).unpack()
    }
}

/// No action of XDP but of [`without_ports`]: the packet is for a service, by the flow that was found.
const BALANCE: u32 = u32::MAX;

/// Another: it is IP in IP for this node.
const DECAPSULATE: u32 = u32::MAX - 1;

/// Another: it is an echo request for a VIP.
const ANSWER_ECHO: u32 = u32::MAX - 2;

/// What does not show its ports. If it belongs to a flow all the same, that goes to [`pick::flow`].
/// What cannot be balanced is passed unless it is for a VIP, which the stack knows nothing of and would
/// only route back to where it came from.
#[inline(never)]
#[unsafe(export_name = "ingress_without_ports")]
extern "C" fn without_ports(ctx: *mut xdp_md) -> Packed {
    let ctx = XdpContext::new(ctx);
    parse::of(&ctx, 0)
        .and_then(|packet| try_without_ports(&ctx, &packet, pick::flow()?))
        .pack()
}

#[inline(always)]
fn try_without_ports(
    ctx: &XdpContext,
    packet: &Packet,
    flow: &mut FlowKey,
) -> Result<u32, DropReason> {
    let config = lookup::config()?;
    let is_vip = lookup::is_vip(config, packet.flow.vpc, packet.flow.destination);
    if !is_vip && !config.is_own(&packet.flow.destination) {
        return Ok(XDP_PASS);
    }
    match packet.shape {
        Shape::Error if !is_vip => {
            // About what was translated, if it is ours.
            let Ok(Some(quoted)) = parse::quoted(ctx, packet) else {
                return Ok(XDP_PASS);
            };
            if quoted.destination != packet.flow.destination {
                return Ok(XDP_PASS);
            }
            *flow = quoted;
            Ok(BALANCE)
        }
        Shape::Other
            if !is_vip && matches!(packet.flow.protocol, protocol::IPIP | protocol::IPV6) =>
        {
            Ok(DECAPSULATE)
        }
        _ if !is_vip => Ok(XDP_PASS),
        Shape::EchoRequest => Ok(ANSWER_ECHO),
        Shape::Error => {
            *flow = parse::quoted(ctx, packet)?.ok_or(DropReason::ForeignError)?;
            if flow.destination != packet.flow.destination
                || lookup::external(config, flow).is_none()
            {
                return Err(DropReason::ForeignError);
            }
            Ok(BALANCE)
        }
        // TC takes them off.
        Shape::Options if packet.family == Family::V4 => Ok(XDP_PASS),
        Shape::Options => Err(DropReason::IpOptions),
        Shape::Ports
        | Shape::FirstFragment
        | Shape::LaterFragment
        | Shape::EchoReply
        | Shape::Discovery
        | Shape::Other => Err(DropReason::UnsupportedProtocol),
    }
}

/// The same for a fragment, which is of the flow that the first one shows.
#[inline(never)]
#[unsafe(export_name = "ingress_fragment")]
extern "C" fn fragment(ctx: *mut xdp_md) -> Packed {
    let ctx = XdpContext::new(ctx);
    parse::of(&ctx, 0)
        .and_then(|packet| try_fragment(&ctx, &packet, pick::flow()?))
        .pack()
}

#[inline(always)]
fn try_fragment(ctx: &XdpContext, packet: &Packet, flow: &mut FlowKey) -> Result<u32, DropReason> {
    let config = lookup::config()?;
    let is_vip = lookup::is_vip(config, packet.flow.vpc, packet.flow.destination);
    if !is_vip && !config.is_own(&packet.flow.destination) {
        return Ok(XDP_PASS);
    }
    match fragment::flow(ctx, packet)? {
        Some(found) => {
            *flow = found;
            if lookup::external(config, flow).is_some() {
                fragment::note(ctx, packet, flow)?;
            }
            Ok(BALANCE)
        }
        None if is_vip => Err(fragment::unknown(packet)),
        None => Ok(XDP_PASS),
    }
}

/// Turns an echo request into its reply, in place.
#[inline(never)]
#[unsafe(export_name = "ingress_answer_echo")]
extern "C" fn answer_echo(ctx: *mut xdp_md) -> Packed {
    let ctx = &XdpContext::new(ctx);
    parse::of(ctx, 0)
        .and_then(|packet| try_answer_echo(ctx, packet.family))
        .pack()
}

#[inline(always)]
fn try_answer_echo(ctx: &XdpContext, family: Family) -> Result<u32, DropReason> {
    const TTL: u8 = 64;
    let (request, reply) = match family {
        Family::V4 => (Icmp::ECHO_REQUEST, Icmp::ECHO_REPLY),
        Family::V6 => (Icmp::V6_ECHO_REQUEST, Icmp::V6_ECHO_REPLY),
    };
    let icmp: *mut Icmp = ctx.header(family.transport())?;
    // SAFETY: in bounds, as `header` has checked. Swapping the addresses, below, leaves the checksum
    // of ICMPv6 as it is.
    unsafe {
        let old = u16::from_ne_bytes([request, 0]);
        let new = u16::from_ne_bytes([reply, 0]);
        (*icmp).checksum = checksum::update((*icmp).checksum, old.into(), new.into());
        (*icmp).kind = reply;
    }
    match family {
        Family::V4 => {
            let ip: *mut Ipv4 = ctx.header(NETWORK)?;
            // SAFETY: in bounds, as `header` has checked.
            unsafe {
                let mut header = *ip;
                // Swapping the addresses leaves the checksum as it is.
                (header.source, header.destination) = (header.destination, header.source);
                let old = u16::from_ne_bytes([header.ttl, header.protocol]);
                let new = u16::from_ne_bytes([TTL, header.protocol]);
                header.checksum = checksum::update(header.checksum, old.into(), new.into());
                header.ttl = TTL;
                *ip = header;
            }
        }
        Family::V6 => {
            let ip: *mut Ipv6 = ctx.header(NETWORK)?;
            // SAFETY: in bounds, as `header` has checked.
            unsafe {
                let mut header = *ip;
                (header.source, header.destination) = (header.destination, header.source);
                header.hop_limit = TTL;
                *ip = header;
            }
        }
    }
    stats::count(Counter::EchoAnswered);
    send_back(ctx)
}

/// Sends a frame to whom it came from.
#[inline(always)]
pub fn send_back(ctx: &XdpContext) -> Result<u32, DropReason> {
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { Ethernet::turn_round(ethernet) };
    Ok(XDP_TX)
}
