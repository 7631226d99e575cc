//! What other balancers, or nodes that know nothing of VXLAN, encapsulate for VIPs of this node: IP in
//! IP and GUE, taken off in XDP. What is inside is delivered here and never sent on, but for the one
//! second chance that a packet of an unknown connection has.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use core::mem;
use fairlead_dataplane_common::{Config, Counter, DropReason, FlowKey, mac, protocol};

use crate::frame::{Frame, OnWire};
use crate::header::{Ethernet, NETWORK, Udp};
use crate::parse::{Family, Packet, Shape};
use crate::verdict::{Pack, Packed};
use crate::{lookup, parse, stats};

/// The first four bytes behind UDP: the packet itself in GUE of variant 1, a header in variant 0.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Start([u8; 4]);

// SAFETY: packed to alignment 2, bytes.
unsafe impl OnWire for Start {}

/// Whether a flow without a frontend is a tunnel that may end here.
#[inline(always)]
pub fn is_gue(flow: &FlowKey) -> bool {
    flow.destination_port_be == protocol::GUE_PORT.to_be() && flow.protocol == protocol::UDP
}

/// Takes the outer headers off a packet for the node itself.
#[inline(never)]
#[unsafe(export_name = "decap_strip")]
pub extern "C" fn strip(ctx: *mut xdp_md) -> Packed {
    let ctx = &XdpContext::new(ctx);
    parse::of(ctx, 0)
        .and_then(|outer| try_strip(ctx, &outer))
        .pack()
}

#[inline(always)]
fn try_strip(ctx: &XdpContext, outer: &Packet) -> Result<u32, DropReason> {
    let config = lookup::config()?;
    let transport = outer.family.transport();
    let (family, behind) = match (outer.shape, outer.flow.protocol) {
        (Shape::Other, protocol::IPIP) => (Family::V4, 0),
        (Shape::Other, protocol::IPV6) => (Family::V6, 0),
        (Shape::Ports, _) => match gue(ctx, transport)? {
            Some((family, header)) => (family, mem::size_of::<Udp>() + header),
            None => return Ok(XDP_PASS),
        },
        _ => return Ok(XDP_PASS),
    };
    finish(ctx, config, outer, family, transport - NETWORK + behind)
}

/// What GUE holds, and the bytes of its own header. Nothing if it is no IP.
#[inline(always)]
fn gue(ctx: &XdpContext, transport: usize) -> Result<Option<(Family, usize)>, DropReason> {
    /// Variant 0, no options, no control message; what it holds is a protocol number.
    const VARIANT_0: u8 = 0;
    let start: *mut Start = ctx.header(transport + mem::size_of::<Udp>())?;
    // SAFETY: in bounds, as `header` has checked.
    let [first, held, flags_high, flags_low] = unsafe { (*start).0 };
    Ok(match (first >> 4, first, held, [flags_high, flags_low]) {
        (4, ..) => Some((Family::V4, 0)),
        (6, ..) => Some((Family::V6, 0)),
        (_, VARIANT_0, protocol::IPIP, [0, 0]) => Some((Family::V4, mem::size_of::<Start>())),
        (_, VARIANT_0, protocol::IPV6, [0, 0]) => Some((Family::V6, mem::size_of::<Start>())),
        _ => None,
    })
}

/// Takes `added` bytes off behind the Ethernet header, before a packet of `family`.
#[inline(always)]
fn finish(
    ctx: &XdpContext,
    config: &Config,
    outer: &Packet,
    family: Family,
    added: usize,
) -> Result<u32, DropReason> {
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    let destination = unsafe { (*ethernet).destination };
    // SAFETY: the context is the program's own. The kernel leaves 14 bytes at least.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, added as i32) } != 0 {
        return Err(DropReason::EncapsulationFailed);
    }
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: as above.
    unsafe {
        *ethernet = Ethernet {
            destination,
            // As another node marks what it has passed on.
            source: mac::of_node(config.node_id),
            ethertype_be: family.ethertype_be(),
        };
    }
    let inner = parse::of(ctx, 0)?;
    if inner.length + added as u32 > outer.length {
        return Err(DropReason::Malformed);
    }
    let is_ours = lookup::is_vip(config, 0, inner.flow.destination)
        || inner.shape == Shape::Ports && lookup::external(config, &inner.flow).is_some();
    if !is_ours {
        return Err(DropReason::ForeignTunnel);
    }
    stats::count(Counter::Decapsulated);
    Ok(XDP_PASS)
}
