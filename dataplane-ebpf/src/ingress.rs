//! XDP on an uplink: VIPs are balanced here, and everything else passes.

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use fairlead_dataplane_common::{
    Config, DropReason, NODE_LOCAL, NODE_RESOLVED, checksum, hash, mac,
};

use crate::frame::Frame;
use crate::header::{ETHERTYPE_IPV4_BE, Ethernet, Icmp, Ipv4, NETWORK, TRANSPORT};
use crate::parse::{Packet, Shape};
use crate::{encap, lookup, parse, stats};

/// Sends a packet for a VIP to the node of the backend that its flow picks. Passes what is not for
/// a VIP, what belongs to a pod of this node, and what needs a neighbour resolved first.
#[inline(always)]
pub fn balance(ctx: &XdpContext) -> Result<u32, DropReason> {
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    if unsafe { (*ethernet).ethertype_be } != ETHERTYPE_IPV4_BE {
        return Ok(XDP_PASS);
    }
    let packet = parse::ipv4(ctx, 0)?;
    let config = lookup::config()?;
    if packet.shape != Shape::Ports {
        return without_ports(ctx, config, &packet);
    }
    let Some(frontend) = lookup::external(config, &packet.flow) else {
        return Ok(XDP_PASS);
    };
    let hash = hash::flow(&config.seed, &packet.flow);
    let backend = lookup::pick(config, frontend.service, hash)?;
    if backend.node == NODE_LOCAL {
        return Ok(XDP_PASS);
    }
    let node = lookup::node(backend.node).ok_or(DropReason::NoBackend)?;
    if node.flags & NODE_RESOLVED == 0 {
        return Ok(XDP_PASS);
    }
    stats::packet(frontend.service, ctx.length(), packet.opens);
    encap::push_xdp(
        ctx,
        config,
        node,
        &packet,
        hash,
        mac::of_backend(backend.id),
    )?;
    Ok(XDP_TX)
}

/// Takes back what [`balance`] did to a frame it sent: for the benchmark, see `bin/measured.rs`.
#[inline(always)]
pub fn restore(ctx: &XdpContext) -> Result<(), DropReason> {
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    let original = unsafe { *ethernet };
    // SAFETY: the context is the program's own.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, encap::OVERHEAD as i32) } != 0 {
        return Err(DropReason::EncapsulationFailed);
    }
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // The frame came to the address that it left from.
    // SAFETY: in bounds, as `header` has checked.
    unsafe {
        (*ethernet).destination = original.source;
        (*ethernet).source = original.destination;
        (*ethernet).ethertype_be = ETHERTYPE_IPV4_BE;
    }
    Ok(())
}

/// What cannot be balanced: passed unless it is for a VIP, which the stack knows nothing of and
/// would only route back to where it came from.
#[inline(always)]
fn without_ports(ctx: &XdpContext, config: &Config, packet: &Packet) -> Result<u32, DropReason> {
    if !lookup::is_vip(config, packet.flow.vpc, packet.flow.destination) {
        return Ok(XDP_PASS);
    }
    match packet.shape {
        Shape::EchoRequest => answer_echo(ctx),
        Shape::Fragment => Err(DropReason::Fragment),
        Shape::Options => Err(DropReason::IpOptions),
        Shape::Ports | Shape::EchoReply | Shape::Other => Err(DropReason::UnsupportedProtocol),
    }
}

/// Turns an echo request into its reply, in place.
#[inline(always)]
fn answer_echo(ctx: &XdpContext) -> Result<u32, DropReason> {
    const TTL: u8 = 64;
    let icmp: *mut Icmp = ctx.header(TRANSPORT)?;
    let ip: *mut Ipv4 = ctx.header(NETWORK)?;
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: all in bounds, as `header` has checked.
    unsafe {
        let (destination, source) = ((*ethernet).destination, (*ethernet).source);
        (*ethernet).destination = source;
        (*ethernet).source = destination;
        // Swapping the addresses leaves the checksum as it is.
        let mut header = *ip;
        let (client, vip) = (header.source, header.destination);
        header.source = vip;
        header.destination = client;
        let old = u16::from_ne_bytes([header.ttl, header.protocol]);
        let new = u16::from_ne_bytes([TTL, header.protocol]);
        header.checksum = checksum::update(header.checksum, old.into(), new.into());
        header.ttl = TTL;
        *ip = header;
        let old = u16::from_ne_bytes([Icmp::ECHO_REQUEST, 0]);
        let new = u16::from_ne_bytes([Icmp::ECHO_REPLY, 0]);
        (*icmp).checksum = checksum::update((*icmp).checksum, old.into(), new.into());
        (*icmp).kind = Icmp::ECHO_REPLY;
    }
    Ok(XDP_TX)
}
