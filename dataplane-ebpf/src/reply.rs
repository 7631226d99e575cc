//! Direct server return at the pod's node: the client's packet is translated to the pod here, and
//! the pod's answer goes straight to the client in the VIP's name.

use aya_ebpf::bindings::{__sk_buff, BPF_ANY, TC_ACT_OK};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_redirect_peer};
use aya_ebpf::programs::TcContext;
use fairlead_dataplane_common::{
    Address, BackendEntry, Config, DropReason, EndpointEntry, FlowEntry, FlowKey, protocol,
};

use crate::frame::Frame;
use crate::maps::REPLIES;
use crate::parse::{self, Packet, Shape};
use crate::rewrite::{self, End, Peer};
use crate::verdict::Packed;
use crate::{fragment, lookup, mss, vlan};

/// Delivers a client's packet to a backend on this node, and remembers as whom it answers. `flow` is
/// the packet's; that of a later fragment may lack the ports, which then are not needed.
#[inline(never)]
pub fn deliver(skb: *mut __sk_buff, flow: &FlowKey, backend: &BackendEntry) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, flow.vpc)
        .and_then(|packet| try_deliver(ctx, &packet, flow, backend))
        .into()
}

#[inline(always)]
fn try_deliver(
    ctx: &TcContext,
    packet: &Packet,
    flow: &FlowKey,
    backend: &BackendEntry,
) -> Result<i32, DropReason> {
    if !packet.family.has(&backend.address) {
        return Err(DropReason::FamilyMismatch);
    }
    let endpoint = lookup::endpoint(flow.vpc, backend.address).ok_or(DropReason::NoEndpoint)?;
    if packet.shape != Shape::LaterFragment {
        remember(ctx, flow, backend);
    }
    let pod = Peer {
        address: backend.address,
        port_be: backend.port_be,
    };
    let vip = Peer::of_flow(flow, End::Destination);
    rewrite::replace(ctx, packet, End::Destination, vip, pod)?;
    hand_over(ctx, endpoint)
}

/// As whom a pod answers in `flow`, if it answers a client of a VIP. Counts the packet.
#[inline(always)]
fn vip_of(ctx: &TcContext, flow: &FlowKey) -> Option<Peer> {
    let entry = REPLIES.get_ptr_mut(flow)?;
    // SAFETY: the kernel keeps a removed element readable until the program has ended; the counts
    // of two CPUs that meet here may lose one, which is all they lose.
    unsafe {
        met(entry, ctx.length());
        Some(Peer {
            address: (*entry).address,
            port_be: (*entry).port_be,
        })
    }
}

/// Delivers an ICMP error about what a backend on this node has sent in the VIP's name; `flow` is its
/// client's, see [`parse::quoted`].
#[inline(never)]
pub fn deliver_error(skb: *mut __sk_buff, flow: &FlowKey, backend: &BackendEntry) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, flow.vpc)
        .and_then(|packet| try_deliver_error(ctx, &packet, flow, backend))
        .into()
}

#[inline(always)]
fn try_deliver_error(
    ctx: &TcContext,
    packet: &Packet,
    flow: &FlowKey,
    backend: &BackendEntry,
) -> Result<i32, DropReason> {
    if packet.flow.destination != flow.destination {
        return Err(DropReason::ForeignError);
    }
    let endpoint = lookup::endpoint(flow.vpc, backend.address).ok_or(DropReason::NoEndpoint)?;
    let vip = Peer::of_flow(flow, End::Destination);
    let pod = Peer {
        address: backend.address,
        port_be: backend.port_be,
    };
    rewrite::replace_quoted(ctx, packet, End::Destination, vip, pod)?;
    hand_over(ctx, endpoint)
}

/// Gives a packet to a pod as if its own interface had received it, without a detour through the
/// host's stack.
#[inline(always)]
pub fn hand_over(ctx: &TcContext, endpoint: &EndpointEntry) -> Result<i32, DropReason> {
    vlan::discard(ctx)?;
    ctx.store(0, &endpoint.mac, 0)
        .map_err(|_| DropReason::RewriteFailed)?;
    // SAFETY: takes numbers only.
    Ok(unsafe { bpf_redirect_peer(endpoint.ifindex, 0) } as i32)
}

/// Puts the VIP in place of the pod that answers, if it does answer a client of a VIP.
#[inline(always)]
pub fn translate(ctx: &TcContext, config: &Config, packet: &mut Packet) -> Result<(), DropReason> {
    let key = packet.flow;
    let Some(vip) = vip_of(ctx, &key) else {
        return Ok(());
    };
    let pod = Peer::of_flow(&key, End::Source);
    rewrite::replace(ctx, packet, End::Source, pod, vip)?;
    packet.flow.source = vip.address;
    packet.flow.source_port_be = vip.port_be;
    if packet.flow.protocol == protocol::TCP
        && mss::is_announced(ctx, packet.family)?
        && let Some(limit) = mss::limit(config, packet.family)
    {
        mss::clamp_skb(ctx, packet.family, limit)?;
    }
    Ok(())
}

/// The same for what does not show its ports: fragments, and errors that the pod reports to a client
/// of a VIP.
#[inline(always)]
pub fn translate_without_ports(ctx: &TcContext, packet: &mut Packet) -> Result<(), DropReason> {
    let mut source = packet.flow.source;
    let vpc = packet.flow.vpc;
    match packet.shape {
        Shape::Error => error(ctx.skb.skb, vpc, &mut source).unpack()?,
        Shape::FirstFragment | Shape::LaterFragment => {
            fragment(ctx.skb.skb, vpc, &mut source).unpack()?
        }
        _ => return Ok(()),
    };
    packet.flow.source = source;
    Ok(())
}

#[inline(never)]
fn fragment(skb: *mut __sk_buff, vpc: u32, source: &mut Address) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, vpc)
        .and_then(|packet| translate_fragment(ctx, &packet, source))
        .into()
}

#[inline(never)]
fn error(skb: *mut __sk_buff, vpc: u32, source: &mut Address) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, vpc)
        .and_then(|packet| translate_error(ctx, &packet, source))
        .into()
}

#[inline(always)]
fn translate_fragment(
    ctx: &TcContext,
    packet: &Packet,
    source: &mut Address,
) -> Result<i32, DropReason> {
    let Some(flow) = fragment::flow(ctx, packet)? else {
        return Ok(TC_ACT_OK);
    };
    let Some(vip) = vip_of(ctx, &flow) else {
        return Ok(TC_ACT_OK);
    };
    fragment::note(ctx, packet, &flow)?;
    rewrite::replace(
        ctx,
        packet,
        End::Source,
        Peer::of_flow(&flow, End::Source),
        vip,
    )?;
    *source = vip.address;
    Ok(TC_ACT_OK)
}

#[inline(always)]
fn translate_error(
    ctx: &TcContext,
    packet: &Packet,
    source: &mut Address,
) -> Result<i32, DropReason> {
    // What the pod would answer.
    let Some(flow) = parse::quoted(ctx, packet)? else {
        return Ok(TC_ACT_OK);
    };
    let Some(vip) = vip_of(ctx, &flow) else {
        return Ok(TC_ACT_OK);
    };
    let pod = Peer::of_flow(&flow, End::Source);
    if packet.flow.source != pod.address {
        return Err(DropReason::ForeignError);
    }
    rewrite::replace_quoted(ctx, packet, End::Source, pod, vip)?;
    *source = vip.address;
    Ok(TC_ACT_OK)
}

/// Notes on an entry that a packet has met it.
///
/// # Safety
/// `entry` points at a live map element.
#[inline(always)]
pub unsafe fn met(entry: *mut FlowEntry, bytes: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        (*entry).seen_jiffies = bpf_jiffies64();
        (*entry).packets += 1;
        (*entry).bytes += u64::from(bytes);
    }
}

#[inline(always)]
fn remember(ctx: &TcContext, flow: &FlowKey, backend: &BackendEntry) {
    let key = FlowKey {
        source: backend.address,
        destination: flow.source,
        vpc: flow.vpc,
        source_port_be: backend.port_be,
        destination_port_be: flow.source_port_be,
        protocol: flow.protocol,
        padding: [0; 3],
    };
    if let Some(entry) = REPLIES.get_ptr_mut(&key) {
        // SAFETY: as in `vip_of`.
        let same = unsafe {
            met(entry, ctx.length());
            (*entry).address == flow.destination && (*entry).port_be == flow.destination_port_be
        };
        if same {
            return;
        }
    }
    let entry = FlowEntry {
        address: flow.destination,
        port_be: flow.destination_port_be,
        padding: 0,
        backend: backend.id,
        // SAFETY: takes nothing.
        seen_jiffies: unsafe { bpf_jiffies64() },
        packets: 1,
        bytes: u64::from(ctx.length()),
    };
    // An LRU map makes room; if it cannot, the pod's answer leaves in its own name and the client
    // resets it, as with any lost state.
    let _ = REPLIES.insert(&key, &entry, u64::from(BPF_ANY));
}
