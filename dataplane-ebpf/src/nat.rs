//! Full NAT (IPVS' NAT with the source translated too): a client's packet leaves from the node's own
//! address and a port of ours, for the backend's; the answer comes back to that port and goes to the
//! client in the VIP's name. For networks that refuse answers by another way than the questions went.
//!
//! Both directions are translated in XDP where the next hop is known: the backend's by its node, and
//! the client's by the frame that its last packet came in. All else is TC's.

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST, TC_ACT_OK, xdp_md};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_redirect_neigh};
use aya_ebpf::programs::{TcContext, XdpContext};
use core::ptr;
use fairlead_dataplane_common::maps::{NAT_PORT_MAX, NAT_PORT_MIN};
use fairlead_dataplane_common::{
    Address, BackendEntry, DropReason, FlowKey, NODE_SERVER, NatEntry, ROUTE_NODE_HOST, ROUTE_PODS,
    checksum, hash, protocol,
};

use crate::encap::{self, Label};
use crate::frame::Frame;
use crate::header::{Ethernet, Icmp, Ipv4, Ipv6, NETWORK, Tcp, Udp};
use crate::maps::{FLOWS, NAT, TRANSLATION};
use crate::parse::{Family, Packet, Shape};
use crate::rewrite::{self, End, Peer};
use crate::server::{self, TOO_BIG};
use crate::verdict::{Pack, Packed, Unpack};
use crate::{fragment, lookup, mss, parse, reply};

/// Ports tried for a new flow before it is dropped. The first is chosen by the flow's hash; at half
/// the ports taken towards one backend, 32 fail once in four billion flows.
const ATTEMPTS: u32 = 32;

const PORTS: u32 = (NAT_PORT_MAX - NAT_PORT_MIN) as u32 + 1;

/// Whether `port_be` may be one of ours.
#[inline(always)]
pub fn is_port(port_be: u16) -> bool {
    (NAT_PORT_MIN..=NAT_PORT_MAX).contains(&u16::from_be(port_be))
}

/// A translation in the making: one for each CPU, in a map, as the stack has no room for it.
#[repr(C)]
pub struct Translation {
    /// The packet's flow.
    old: FlowKey,
    /// What it becomes.
    new: FlowKey,
    /// The answer to that, as `nat` has it.
    answer: FlowKey,
    /// What becomes of the answer.
    entry: NatEntry,
    /// Who is to get a client's packet.
    backend: BackendEntry,
    /// Of a client's flow.
    hash: u32,
    /// Bytes of headers that will stand before the packet.
    overhead: u32,
}

/// This CPU's.
#[inline(always)]
fn translation() -> Result<&'static mut Translation, DropReason> {
    let element = TRANSLATION.get_ptr_mut(0).ok_or(DropReason::NoBackend)?;
    // SAFETY: the element is this CPU's own, programs of one CPU do not interleave here, and nobody
    // keeps the reference longer than its own function.
    Ok(unsafe { &mut *element })
}

/// Begins the translation of a client's packet of `flow` for `backend`.
#[inline(always)]
pub fn begin(flow: &FlowKey, backend: &BackendEntry, hash: u32) -> Result<(), DropReason> {
    let translation = translation()?;
    translation.old = *flow;
    translation.backend = *backend;
    translation.hash = hash;
    Ok(())
}

/// Begins the translation of what may be an answer, of `flow`.
#[inline(always)]
pub fn begin_answer(flow: &FlowKey) -> Result<(), DropReason> {
    let translation = translation()?;
    translation.old = *flow;
    translation.overhead = 0;
    Ok(())
}

/// Translates a client's packet for a backend on another node or outside, whose neighbour is resolved,
/// and sends it. Instead of an action it may return [`TOO_BIG`] and an MTU.
///
/// One function after the other, not one in the other: their stacks would not fit.
#[inline(always)]
pub fn send_xdp(ctx: &XdpContext) -> Result<u32, DropReason> {
    let too_big = enter_xdp(ctx.ctx).unpack()?;
    if too_big != 0 {
        return Ok(too_big);
    }
    translate(ctx.ctx).unpack()?;
    depart(ctx.ctx).unpack()
}

/// The first part of [`send_xdp`].
#[inline(never)]
#[unsafe(export_name = "nat_enter_xdp")]
extern "C" fn enter_xdp(ctx: *mut xdp_md) -> Packed {
    try_enter_xdp(&XdpContext::new(ctx)).pack()
}

#[inline(always)]
fn try_enter_xdp(ctx: &XdpContext) -> Result<u32, DropReason> {
    let translation = translation()?;
    let node = lookup::node(translation.backend.node).ok_or(DropReason::NoBackend)?;
    translation.overhead = if node.flags & NODE_SERVER != 0 {
        0
    } else {
        encap::overhead_to(node)
    };
    let overhead = translation.overhead;
    let length = parse::of(ctx, 0)?.length;
    if node.mtu > overhead && node.mtu < length + overhead {
        return Ok(TOO_BIG + node.mtu - overhead);
    }
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked, and the context is the program's own.
    unsafe {
        translation.entry.client_mac = (*ethernet).source;
        translation.entry.client_ifindex = (*ctx.ctx).ingress_ifindex;
    }
    allocate(translation, ctx.length())?;
    Ok(0)
}

/// The last part of [`send_xdp`].
#[inline(never)]
#[unsafe(export_name = "nat_depart")]
extern "C" fn depart(ctx: *mut xdp_md) -> Packed {
    try_depart(&XdpContext::new(ctx)).pack()
}

#[inline(always)]
fn try_depart(ctx: &XdpContext) -> Result<u32, DropReason> {
    let translation = translation()?;
    let node = lookup::node(translation.backend.node).ok_or(DropReason::NoBackend)?;
    if node.flags & NODE_SERVER == 0 {
        let config = lookup::config()?;
        let packet = parse::of(ctx, 0)?;
        let label = Label::node(config, node.id);
        encap::push_xdp(ctx, config, node, &packet, translation.hash, label)?;
        return Ok(XDP_TX);
    }
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { Ethernet::readdress(ethernet, node.mac, (*ethernet).destination) };
    Ok(XDP_TX)
}

/// Translates an answer to the node's own address, if it is one, and sends it to where the client's
/// packets come from; passes it where that is another interface or not known.
#[inline(always)]
pub fn answer_xdp(ctx: &XdpContext) -> Result<u32, DropReason> {
    if find_answer(ctx.ctx).unpack()? == 0 {
        return Ok(XDP_PASS);
    }
    translate(ctx.ctx).unpack()?;
    let mac = translation()?.entry.client_mac;
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { Ethernet::readdress(ethernet, mac, (*ethernet).destination) };
    Ok(XDP_TX)
}

/// Whether an answer can be sent from here: then it is known what it becomes.
#[inline(never)]
#[unsafe(export_name = "nat_find_answer")]
extern "C" fn find_answer(ctx: *mut xdp_md) -> Packed {
    try_find_answer(&XdpContext::new(ctx)).pack()
}

#[inline(always)]
fn try_find_answer(ctx: &XdpContext) -> Result<u32, DropReason> {
    let translation = translation()?;
    let Some(entry) = NAT.get_ptr_mut(&translation.old) else {
        return Ok(0);
    };
    // SAFETY: the context is the program's own.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    // SAFETY: the kernel keeps a removed element readable until the program has ended; the counts of
    // two CPUs that meet here may lose one, which is all they lose.
    unsafe {
        if (*entry).client_ifindex != ifindex {
            return Ok(0);
        }
        met(entry, ctx.length());
        translation.become_clients(&*entry);
        translation.entry.client_mac = (*entry).client_mac;
    }
    Ok(1)
}

/// The same as [`send_xdp`] for an skb; the stack resolves neighbours.
#[inline(never)]
#[unsafe(export_name = "nat_send_skb")]
pub extern "C" fn send_skb(skb: *mut __sk_buff) -> Packed {
    try_send_skb(&TcContext::new(skb)).pack()
}

#[inline(always)]
fn try_send_skb(ctx: &TcContext) -> Result<i32, DropReason> {
    let translation = translation()?;
    translation.entry.client_ifindex = 0;
    allocate(translation, ctx.length())?;
    replace(ctx.skb.skb)?;
    let config = lookup::config()?;
    let node = lookup::node(translation.backend.node).ok_or(DropReason::NoBackend)?;
    if node.flags & NODE_SERVER == 0 {
        let packet = parse::of(ctx, 0)?;
        let label = Label::node(config, node.id);
        return encap::send_skb(ctx, config, node, &packet, translation.hash, label);
    }
    // SAFETY: no parameters: the stack routes by the destination just written.
    Ok(unsafe { bpf_redirect_neigh(server::uplink(config, node), ptr::null_mut(), 0, 0) } as i32)
}

/// The same as [`answer_xdp`] for an skb, to wherever the client is: outside, a pod, or the node itself.
#[inline(never)]
#[unsafe(export_name = "nat_answer_skb")]
pub extern "C" fn answer_skb(skb: *mut __sk_buff) -> Packed {
    try_answer_skb(&TcContext::new(skb)).pack()
}

#[inline(always)]
fn try_answer_skb(ctx: &TcContext) -> Result<i32, DropReason> {
    let translation = translation()?;
    let Some(entry) = NAT.get_ptr_mut(&translation.old) else {
        return Ok(TC_ACT_OK);
    };
    // SAFETY: as in `try_find_answer`.
    unsafe {
        met(entry, ctx.length());
        translation.become_clients(&*entry);
    }
    replace(ctx.skb.skb)?;
    let config = lookup::config()?;
    let client = translation.new.destination;
    if config.is_own(&client) {
        return Ok(TC_ACT_OK);
    }
    if let Some(endpoint) = lookup::endpoint(0, client) {
        return reply::hand_over(ctx, endpoint);
    }
    if let Some(route) = lookup::route(0, client)
        && (route.kind == ROUTE_PODS || route.kind == ROUTE_NODE_HOST)
    {
        let node = lookup::node(route.node).ok_or(DropReason::NoRoute)?;
        let packet = parse::of(ctx, 0)?;
        let hash = hash::flow(&config.seed, &translation.new);
        let label = Label::node(config, node.id);
        return encap::send_skb(ctx, config, node, &packet, hash, label);
    }
    // SAFETY: no parameters: the stack routes by the destination just written.
    Ok(unsafe { bpf_redirect_neigh(config.uplink_ifindex, ptr::null_mut(), 0, 0) } as i32)
}

/// Finds the port that the flow has towards its backend, or takes one; so it is known what the packet
/// becomes. The flow's hash says where to begin, and the first free one is taken; which it was, the
/// flow's note keeps, as others may become free.
#[inline(always)]
fn allocate(translation: &mut Translation, bytes: u32) -> Result<(), DropReason> {
    let config = lookup::config()?;
    let is_v4 = translation.old.source.is_v4();
    let backend = &translation.backend;
    if backend.address.is_v4() != is_v4 {
        return Err(DropReason::FamilyMismatch);
    }
    let family = if is_v4 { Family::V4 } else { Family::V6 };
    translation.prepare(server::own_address(config, family)?, bytes);
    let noted = FLOWS.get_ptr_mut(&translation.old);
    if let Some(noted) = noted {
        // SAFETY: the kernel keeps a removed element readable until the program has ended; two
        // bytes are read and written whole.
        let port_be = unsafe { (*noted).nat_port_be };
        translation.answer.destination_port_be = port_be;
        if port_be != 0 && translation.is_entered(bytes) {
            translation.become_nodes();
            return Ok(());
        }
    }
    let first = hash::reduce(translation.hash, PORTS);
    for attempt in 0..ATTEMPTS {
        let offset = first + attempt;
        let offset = if offset >= PORTS {
            offset - PORTS
        } else {
            offset
        };
        let port_be = (NAT_PORT_MIN + offset as u16).to_be();
        translation.answer.destination_port_be = port_be;
        let is_entered = translation.is_entered(bytes)
            || NAT
                .insert(
                    &translation.answer,
                    &translation.entry,
                    u64::from(BPF_NOEXIST),
                )
                .is_ok();
        if is_entered {
            if let Some(noted) = noted {
                // SAFETY: as above.
                unsafe { (*noted).nat_port_be = port_be };
            }
            translation.become_nodes();
            return Ok(());
        }
    }
    Err(DropReason::NatExhausted)
}

impl Translation {
    /// What answers from `backend` are like, but for the port, and what is to become of them.
    #[inline(always)]
    fn prepare(&mut self, node: &Address, bytes: u32) {
        let (old, backend) = (&self.old, &self.backend);
        self.answer = FlowKey {
            source: backend.address,
            destination: *node,
            vpc: old.vpc,
            source_port_be: backend.port_be,
            destination_port_be: 0,
            protocol: old.protocol,
            padding: [0; 3],
        };
        let entry = &mut self.entry;
        entry.client = old.source;
        entry.vip = old.destination;
        entry.client_port_be = old.source_port_be;
        entry.vip_port_be = old.destination_port_be;
        entry.backend = backend.id;
        // SAFETY: takes nothing.
        entry.seen_jiffies = unsafe { bpf_jiffies64() };
        entry.packets = 1;
        entry.bytes = u64::from(bytes);
    }

    /// Whether `nat` has the answer for this flow. If so, counts the packet and notes where it came
    /// from.
    #[inline(always)]
    fn is_entered(&self, bytes: u32) -> bool {
        let Some(entry) = NAT.get_ptr_mut(&self.answer) else {
            return false;
        };
        let own = &self.entry;
        // SAFETY: as in `try_find_answer`.
        unsafe {
            let is_own = (*entry).client == own.client
                && (*entry).vip == own.vip
                && (*entry).client_port_be == own.client_port_be
                && (*entry).vip_port_be == own.vip_port_be;
            if is_own {
                met(entry, bytes);
                if own.client_ifindex != 0 {
                    (*entry).client_mac = own.client_mac;
                    (*entry).client_ifindex = own.client_ifindex;
                }
            }
            is_own
        }
    }

    /// The client's packet becomes what the answer answers.
    #[inline(always)]
    fn become_nodes(&mut self) {
        let answer = &self.answer;
        self.new = FlowKey {
            source: answer.destination,
            destination: answer.source,
            vpc: answer.vpc,
            source_port_be: answer.destination_port_be,
            destination_port_be: answer.source_port_be,
            protocol: answer.protocol,
            padding: [0; 3],
        };
    }

    /// The answer becomes what `entry` says.
    #[inline(always)]
    fn become_clients(&mut self, entry: &NatEntry) {
        self.new = FlowKey {
            source: entry.vip,
            destination: entry.client,
            vpc: self.old.vpc,
            source_port_be: entry.vip_port_be,
            destination_port_be: entry.client_port_be,
            protocol: self.old.protocol,
            padding: [0; 3],
        };
    }
}

/// Notes on an entry that a packet has met it.
///
/// # Safety
/// `entry` points at a live map element.
#[inline(always)]
unsafe fn met(entry: *mut NatEntry, bytes: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        (*entry).seen_jiffies = bpf_jiffies64();
        (*entry).packets += 1;
        (*entry).bytes += u64::from(bytes);
    }
}

/// Makes the packet at hand what [`Translation`] says, one hop on. A first fragment is noted.
#[inline(never)]
#[unsafe(export_name = "nat_translate")]
extern "C" fn translate(ctx: *mut xdp_md) -> Packed {
    let ctx = &XdpContext::new(ctx);
    parse::of(ctx, 0)
        .and_then(|packet| try_translate(ctx, &packet))
        .pack()
}

#[inline(always)]
fn try_translate(ctx: &XdpContext, packet: &Packet) -> Result<u32, DropReason> {
    let translation = translation()?;
    let (old, new) = (&translation.old, &translation.new);
    let family = packet.family;
    if packet.shape == Shape::Error {
        // An error travels as what answers the packet it quotes: that is of the flow turned round. Who
        // reports it keeps its address, unless it is the backend.
        let reporter = packet.flow.source;
        let source = if reporter == old.source {
            &new.source
        } else {
            &reporter
        };
        translate_error(ctx, packet, old, new, (source, &new.destination))?;
        return Ok(0);
    }
    fragment::note(ctx, packet, old)?;
    let before = old.source.sum() + old.destination.sum();
    let after = new.source.sum() + new.destination.sum();
    route(ctx, family, before, after, (&new.source, &new.destination))?;
    match (packet.shape, family) {
        (Shape::LaterFragment, _) => {}
        (Shape::FirstFragment, Family::V6) => {
            translate_ports(ctx, fragment::TRANSPORT_V6, before, after, old, new)?;
        }
        (Shape::Ports, _) if packet.flow.protocol == protocol::TCP => {
            translate_ports(ctx, family.transport(), before, after, old, new)?;
            if mss::is_announced(ctx, family)? {
                let overhead = translation.overhead as usize;
                mss::clamp_xdp(ctx, lookup::config()?, family, overhead)?;
            }
        }
        _ => translate_ports(ctx, family.transport(), before, after, old, new)?,
    }
    Ok(0)
}

/// Changes the addresses of an IP header, whose sums are given, and takes a hop off.
#[inline(always)]
fn route(
    ctx: &XdpContext,
    family: Family,
    before: u64,
    after: u64,
    ends: (&Address, &Address),
) -> Result<(), DropReason> {
    match family {
        Family::V4 => {
            let ip: *mut Ipv4 = ctx.header(NETWORK)?;
            // SAFETY: in bounds, as `header` has checked.
            unsafe {
                if (*ip).ttl <= 1 {
                    return Err(DropReason::HopLimit);
                }
                let old = u64::from(u16::from_ne_bytes([(*ip).ttl, 0]));
                let new = u64::from(u16::from_ne_bytes([(*ip).ttl - 1, 0]));
                (*ip).checksum = checksum::update((*ip).checksum, before + old, after + new);
                (*ip).ttl -= 1;
                (*ip).source = ends.0.v4_word();
                (*ip).destination = ends.1.v4_word();
            }
        }
        Family::V6 => {
            let ip: *mut Ipv6 = ctx.header(NETWORK)?;
            // SAFETY: as above.
            unsafe {
                if (*ip).hop_limit <= 1 {
                    return Err(DropReason::HopLimit);
                }
                (*ip).hop_limit -= 1;
                (*ip).source = ends.0.words;
                (*ip).destination = ends.1.words;
            }
        }
    }
    Ok(())
}

/// Changes the ports of TCP or UDP, and the checksum that covers them and the addresses.
#[inline(always)]
fn translate_ports(
    ctx: &XdpContext,
    transport: usize,
    before: u64,
    after: u64,
    old: &FlowKey,
    new: &FlowKey,
) -> Result<(), DropReason> {
    let before = before + u64::from(old.source_port_be) + u64::from(old.destination_port_be);
    let after = after + u64::from(new.source_port_be) + u64::from(new.destination_port_be);
    if new.protocol == protocol::TCP {
        let tcp: *mut Tcp = ctx.header(transport)?;
        // SAFETY: in bounds, as `header` has checked.
        unsafe {
            (*tcp).source_be = new.source_port_be;
            (*tcp).destination_be = new.destination_port_be;
            (*tcp).checksum = checksum::update((*tcp).checksum, before, after);
        }
    } else {
        let udp: *mut Udp = ctx.header(transport)?;
        // SAFETY: as above.
        unsafe {
            (*udp).source_be = new.source_port_be;
            (*udp).destination_be = new.destination_port_be;
            (*udp).checksum = checksum::update_udp((*udp).checksum, before, after);
        }
    }
    Ok(())
}

/// Makes an ICMP error about what answers flow `old` one about what answers `new`, sent by the first to
/// the second of `ends`.
#[inline(always)]
fn translate_error(
    ctx: &XdpContext,
    packet: &Packet,
    old: &FlowKey,
    new: &FlowKey,
    ends: (&Address, &Address),
) -> Result<(), DropReason> {
    let family = packet.family;
    let outer_before = packet.flow.source.sum() + packet.flow.destination.sum();
    let outer_after = ends.0.sum() + ends.1.sum();
    let quoted_before = old.source.sum() + old.destination.sum();
    let quoted_after = new.source.sum() + new.destination.sum();
    route(ctx, family, outer_before, outer_after, ends)?;
    let ports: *mut Udp = ctx.header(family.quoted_transport())?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe {
        (*ports).source_be = new.destination_port_be;
        (*ports).destination_be = new.source_port_be;
    }
    let mut before = u64::from(old.source_port_be) + u64::from(old.destination_port_be);
    let mut after = u64::from(new.source_port_be) + u64::from(new.destination_port_be);
    let quoted = family.transport() + size_of::<Icmp>();
    match family {
        Family::V4 => {
            let ip: *mut Ipv4 = ctx.header(quoted)?;
            // SAFETY: as above. The quoted header's checksum makes up for its addresses: the
            // message's does not change by them.
            unsafe {
                (*ip).checksum = checksum::update((*ip).checksum, quoted_before, quoted_after);
                (*ip).source = new.destination.v4_word();
                (*ip).destination = new.source.v4_word();
            }
        }
        Family::V6 => {
            let ip: *mut Ipv6 = ctx.header(quoted)?;
            // SAFETY: as above.
            unsafe {
                (*ip).source = new.destination.words;
                (*ip).destination = new.source.words;
            }
            before += outer_before + quoted_before;
            after += outer_after + quoted_after;
        }
    }
    let icmp: *mut Icmp = ctx.header(family.transport())?;
    // SAFETY: as above.
    unsafe { (*icmp).checksum = checksum::update((*icmp).checksum, before, after) };
    Ok(())
}

/// Makes the skb at hand what [`Translation`] says, one hop on: one end after the other, not in a loop,
/// of which Linux 6.1 would not see the end.
#[inline(always)]
fn replace(skb: *mut __sk_buff) -> Result<(), DropReason> {
    replace_end(skb, true).unpack()?;
    replace_end(skb, false).unpack()?;
    Ok(())
}

/// The first part of [`replace`] if it `is_source`, else the other.
#[inline(never)]
#[unsafe(export_name = "nat_replace_end")]
extern "C" fn replace_end(skb: *mut __sk_buff, is_source: bool) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, 0)
        .and_then(|packet| try_replace_end(ctx, &packet, is_source))
        .pack()
}

#[inline(always)]
fn try_replace_end(ctx: &TcContext, packet: &Packet, is_source: bool) -> Result<u32, DropReason> {
    // Errors about what is translated are XDP's.
    if packet.shape == Shape::Error {
        return Err(DropReason::ForeignError);
    }
    let translation = translation()?;
    if is_source {
        fragment::note(ctx, packet, &translation.old)?;
        rewrite::take_hop(ctx, packet.family)?;
    }
    let end = if is_source {
        End::Source
    } else {
        End::Destination
    };
    let (old, new) = (
        Peer::of_flow(&translation.old, end),
        Peer::of_flow(&translation.new, end),
    );
    rewrite::replace(ctx, packet, end, old, new)?;
    Ok(0)
}
