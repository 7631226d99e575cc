//! Direct server return at the pod's node: the client's packet is translated to the pod here, and
//! the pod's answer goes straight to the client in the VIP's name.
//!
//! As whom it answers is noted when the client's first packet is delivered, among the `newcomers`. When
//! the pod shows that it has taken the flow, by a segment that neither begins nor resets a connection, or
//! by datagrams beyond one question and its answer, the note goes to `replies`. Both maps make room by
//! forgetting what was unused longest: a flood whose senders do not exist pushes out newcomers only, and
//! connections that are open stay, however long they say nothing.

use aya_ebpf::bindings::{__sk_buff, BPF_ANY, TC_ACT_OK};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_redirect_peer};
use aya_ebpf::programs::TcContext;
use fairlead_dataplane_common::{
    BackendEntry, Config, DropReason, EndpointEntry, FlowEntry, FlowKey, mac, protocol,
};

use crate::frame::Frame;
use crate::header::Tcp;
use crate::maps::{BACKENDS, DELIVERY, NEWCOMERS, REPLIES};
use crate::parse::{self, Packet, Shape};
use crate::rewrite::{self, End, Peer};
use crate::stage::UNKNOWN;
use crate::verdict::{Pack, Packed};
use crate::{fragment, lookup, mss, vlan};

/// A client's packet that is for a backend on this node.
///
/// Who finds that out says so by returning [`DELIVER`](crate::stage::DELIVER) or
/// [`DELIVER_ERROR`](crate::stage::DELIVER_ERROR), and the program itself does
/// it: what calls and what is called share a stack.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Delivery {
    /// The client's flow, the packet's own or the one that an error is about.
    pub flow: FlowKey,
    /// Slot of the backend.
    pub backend_slot: u32,
    /// How often the packet may still be passed on to another backend, if its connection is unknown
    /// here.
    pub chances_left: u32,
}

/// Notes what is to be delivered, and returns the `kind` of it.
#[inline(always)]
pub fn hand_in(flow: &FlowKey, backend_slot: u32, kind: i32) -> Result<i32, DropReason> {
    hand_on(flow, backend_slot, mac::SECOND_CHANCES_MAX, kind)
}

/// The same of a packet that may be passed on `chances_left` times.
#[inline(always)]
pub fn hand_on(
    flow: &FlowKey,
    backend_slot: u32,
    chances_left: u32,
    kind: i32,
) -> Result<i32, DropReason> {
    let delivery = DELIVERY.get_ptr_mut(0).ok_or(DropReason::NoEndpoint)?;
    // SAFETY: the element is this CPU's own, and programs of one CPU do not interleave here.
    unsafe {
        *delivery = Delivery {
            flow: *flow,
            backend_slot,
            chances_left,
        };
    }
    Ok(kind)
}

/// What was noted, and the backend that it is for.
#[inline(always)]
pub fn delivery() -> Result<(&'static Delivery, &'static BackendEntry), DropReason> {
    let delivery = DELIVERY.get_ptr(0).ok_or(DropReason::NoEndpoint)?;
    // SAFETY: as in `hand_in`.
    let delivery = unsafe { &*delivery };
    let backend = BACKENDS
        .get(delivery.backend_slot)
        .ok_or(DropReason::NoEndpoint)?;
    Ok((delivery, backend))
}

/// Delivers a client's packet to a backend on this node, and remembers as whom it answers. If it
/// `asks`, a packet of a TCP connection that is older than anything known of it here stays as it is,
/// and the answer is [`UNKNOWN`].
#[inline(never)]
#[unsafe(export_name = "reply_deliver")]
pub extern "C" fn deliver(skb: *mut __sk_buff, asks: bool) -> Packed {
    let ctx = &TcContext::new(skb);
    try_deliver(ctx, asks).pack()
}

#[inline(always)]
fn try_deliver(ctx: &TcContext, asks: bool) -> Result<i32, DropReason> {
    let (Delivery { flow, .. }, backend) = delivery()?;
    let packet = &parse::of(ctx, flow.vpc)?;
    if !packet.family.has(&backend.address) {
        return Err(DropReason::FamilyMismatch);
    }
    let endpoint = lookup::endpoint(flow.vpc, backend.address).ok_or(DropReason::NoEndpoint)?;
    // A later fragment may lack the ports, which then are not needed.
    if packet.shape != Shape::LaterFragment {
        let answer = answer(flow, backend);
        if !is_known(ctx, &answer, flow) {
            if asks && flow.protocol == protocol::TCP && !packet.opens {
                return Ok(UNKNOWN);
            }
            // A pod answers nothing to a reset.
            if packet.tcp_flags & Tcp::RST == 0 {
                remember(ctx, &answer, flow, backend);
            }
        }
    }
    let pod = Peer {
        address: backend.address,
        port_be: backend.port_be,
    };
    let vip = Peer::of_flow(flow, End::Destination);
    rewrite::replace(ctx, packet, End::Destination, vip, pod)?;
    hand_over(ctx, endpoint)
}

/// Packets of a question and its answer. Who sends a datagram may not be who it says: only the pod's
/// next one is another's.
const QUESTION_AND_ANSWER: u64 = 2;

/// As whom a pod answers in `flow`, if it answers a client of a VIP. Counts the packet, which `takes` the
/// flow if it is no question of TCP that is refused or still open.
#[inline(always)]
fn vip_of(ctx: &TcContext, flow: &FlowKey, takes: bool) -> Option<Peer> {
    if let Some(entry) = REPLIES.get_ptr_mut(flow) {
        // SAFETY: the kernel keeps a removed element readable until the program has ended; the counts
        // of two CPUs that meet here may lose one, which is all they lose.
        unsafe {
            met(entry, ctx.length());
            return Some(peer(&*entry));
        }
    }
    let entry = NEWCOMERS.get_ptr_mut(flow)?;
    // SAFETY: as above.
    let entry = unsafe {
        met(entry, ctx.length());
        &*entry
    };
    if takes && (flow.protocol == protocol::TCP || entry.packets > QUESTION_AND_ANSWER) {
        // The newcomer's own entry is left to be forgotten.
        let _ = REPLIES.insert(flow, entry, u64::from(BPF_ANY));
    }
    Some(peer(entry))
}

#[inline(always)]
fn peer(entry: &FlowEntry) -> Peer {
    Peer {
        address: entry.address,
        port_be: entry.port_be,
    }
}

/// Delivers an ICMP error about what a backend on this node has sent in the VIP's name.
#[inline(never)]
#[unsafe(export_name = "reply_deliver_error")]
pub extern "C" fn deliver_error(skb: *mut __sk_buff) -> Packed {
    try_deliver_error(&TcContext::new(skb)).pack()
}

#[inline(always)]
fn try_deliver_error(ctx: &TcContext) -> Result<i32, DropReason> {
    let (Delivery { flow, .. }, backend) = delivery()?;
    let packet = &parse::of(ctx, flow.vpc)?;
    if packet.flow.destination != flow.destination {
        return Err(DropReason::ForeignError);
    }
    let endpoint = lookup::endpoint(flow.vpc, backend.address).ok_or(DropReason::NoEndpoint)?;
    let vip = Peer::of_flow(flow, End::Destination);
    let pod = Peer {
        address: backend.address,
        port_be: backend.port_be,
    };
    rewrite::replace_error(ctx, packet, End::Destination, vip, pod)?;
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
    let takes = packet.tcp_flags & (Tcp::SYN | Tcp::RST) == 0;
    let Some(vip) = vip_of(ctx, &key, takes) else {
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

/// The same for a fragment.
#[inline(never)]
#[unsafe(export_name = "reply_translate_fragment")]
pub extern "C" fn translate_fragment(skb: *mut __sk_buff, vpc: u32) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, vpc)
        .and_then(|packet| try_translate_fragment(ctx, &packet))
        .pack()
}

#[inline(always)]
fn try_translate_fragment(ctx: &TcContext, packet: &Packet) -> Result<i32, DropReason> {
    let Some(flow) = fragment::flow(ctx, packet)? else {
        return Ok(TC_ACT_OK);
    };
    let Some(vip) = vip_of(ctx, &flow, true) else {
        return Ok(TC_ACT_OK);
    };
    fragment::note(ctx, packet, &flow)?;
    let pod = Peer::of_flow(&flow, End::Source);
    rewrite::replace(ctx, packet, End::Source, pod, vip)?;
    Ok(TC_ACT_OK)
}

/// The same for an error that the pod reports to a client of a VIP.
#[inline(never)]
#[unsafe(export_name = "reply_translate_error")]
pub extern "C" fn translate_error(skb: *mut __sk_buff, vpc: u32) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, vpc)
        .and_then(|packet| try_translate_error(ctx, &packet))
        .pack()
}

#[inline(always)]
fn try_translate_error(ctx: &TcContext, packet: &Packet) -> Result<i32, DropReason> {
    // What the pod would answer.
    let Some(flow) = parse::quoted(ctx, packet)? else {
        return Ok(TC_ACT_OK);
    };
    let Some(vip) = vip_of(ctx, &flow, false) else {
        return Ok(TC_ACT_OK);
    };
    let pod = Peer::of_flow(&flow, End::Source);
    if packet.flow.source != pod.address {
        return Err(DropReason::ForeignError);
    }
    rewrite::replace_error(ctx, packet, End::Source, pod, vip)?;
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

/// The direction in which `backend` answers `flow`.
#[inline(always)]
fn answer(flow: &FlowKey, backend: &BackendEntry) -> FlowKey {
    FlowKey {
        source: backend.address,
        destination: flow.source,
        vpc: flow.vpc,
        source_port_be: backend.port_be,
        destination_port_be: flow.source_port_be,
        protocol: flow.protocol,
        padding: [0; 3],
    }
}

/// Whether `backend` has answered `flow` before, or was to.
#[inline(always)]
pub fn knows(flow: &FlowKey, backend: &BackendEntry) -> bool {
    let answer = answer(flow, backend);
    let entry = REPLIES
        .get_ptr(answer)
        .or_else(|| NEWCOMERS.get_ptr(answer));
    // SAFETY: as in `vip_of`.
    entry.is_some_and(|entry| unsafe { is_for(&*entry, flow) })
}

/// The same by the answer, and the packet is counted.
#[inline(always)]
fn is_known(ctx: &TcContext, answer: &FlowKey, flow: &FlowKey) -> bool {
    let replies = REPLIES.get_ptr_mut(answer);
    let Some(entry) = replies.or_else(|| NEWCOMERS.get_ptr_mut(answer)) else {
        return false;
    };
    // SAFETY: as in `vip_of`.
    let is_known = unsafe {
        met(entry, ctx.length());
        is_for(&*entry, flow)
    };
    if !is_known {
        // The client has turned to another VIP of the same pod, from the same port.
        let _ = REPLIES.remove(answer);
    }
    is_known
}

#[inline(always)]
fn is_for(entry: &FlowEntry, flow: &FlowKey) -> bool {
    entry.address == flow.destination && entry.port_be == flow.destination_port_be
}

#[inline(always)]
fn remember(ctx: &TcContext, answer: &FlowKey, flow: &FlowKey, backend: &BackendEntry) {
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
    let _ = NEWCOMERS.insert(answer, &entry, u64::from(BPF_ANY));
}
