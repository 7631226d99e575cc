//! Packets of flows that are translated already and of which nothing is left to find out: one lookup says
//! what they become, and one function does it. That is nearly all packets of nearly all flows.
//!
//! A question is settled by its flow's note in `flows`, which has the port and where the client is; what
//! answers to it become, `nat` says, and needs no look: a sweep takes no entry whose flow is noted. Whatever
//! is not as the note says, and all that is more than addresses, ports and a hop to change, is left as it
//! is to [`question`](super::question) and [`answer`](super::answer).

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use fairlead_dataplane_common::checksum::Change;
use fairlead_dataplane_common::{
    Address, BACKEND_EMPTY, BACKEND_SILENT, ClientPlace, DropReason, FLOW_GUESSED,
    FRONTEND_NODE_PORT, FlowKey, FrontendEntry, NODE_SERVER, SERVICE_EXTERNAL_LOCAL, SERVICE_NAT,
    SERVICE_SERVERS, SERVICE_SOURCE_RANGES, ServiceEntry, protocol,
};

use super::{port, question, translation};
use crate::forward::SENT_ON;
use crate::frame::{Frame, set_word};
use crate::header::{Ethernet, Ipv4, Ipv6, NETWORK, Tcp, Udp};
use crate::maps::{BACKENDS, FLOWS, NAT, SERVICES};
use crate::parse::{Family, Packet, Shape};
use crate::vlan::Tags;
use crate::{encap, lookup, pick, server, stats, track};

/// No action of XDP: nothing was done with the packet, which has to be looked at whole.
pub const UNSETTLED: u32 = 0;

/// Another: the packet is translated, and left to [`question::depart_xdp`].
const DEPART: u32 = u32::MAX;

/// Whether nothing but addresses, ports and a hop has to be changed in a packet that is translated: it
/// shows its ports, and announces no size of segments.
#[inline(always)]
pub fn is_plain(packet: &Packet) -> bool {
    matches!(packet.shape, Shape::Ports) && packet.tcp_flags & Tcp::SYN == 0
}

/// Whether [`follow_xdp`] may settle a packet for a service at a frontend.
#[inline(always)]
pub fn may_follow(service: &ServiceEntry, frontend: &FrontendEntry, packet: &Packet) -> bool {
    let is_at_node_port = frontend.flags & FRONTEND_NODE_PORT != 0;
    let translates = if is_at_node_port {
        SERVICE_NAT | SERVICE_SERVERS
    } else {
        SERVICE_NAT
    };
    // What a note does not say: who may use the service, and whether it has a backend for others.
    let is_looked_up = service.flags & (SERVICE_SOURCE_RANGES | SERVICE_EXTERNAL_LOCAL) != 0;
    service.flags & translates != 0 && !is_looked_up && service.lut_length != 0 && is_plain(packet)
}

/// Translates and sends a client's packet of the flow that was asked for, see [`pick::ask`], if its note
/// settles it.
#[inline(always)]
pub fn follow_xdp(ctx: &XdpContext) -> Result<u32, DropReason> {
    match follow(ctx.ctx) as u32 {
        DEPART => question::depart_xdp(ctx),
        done => Ok(done),
    }
}

/// All of [`follow_xdp`] where the backend is a server.
#[inline(never)]
#[unsafe(export_name = "nat_follow")]
extern "C" fn follow(ctx: *mut xdp_md) -> u64 {
    try_follow(&XdpContext::new(ctx))
        .unwrap_or(UNSETTLED)
        .into()
}

#[inline(always)]
fn try_follow(ctx: &XdpContext) -> Option<u32> {
    let query = pick::query().ok()?;
    let noted = FLOWS.get_ptr_mut(&query.key)?;
    // SAFETY: the kernel keeps a removed element readable until the program has ended. Two CPUs that
    // meet here may lose a count or a step of the state, which the next packet makes up for.
    let noted = unsafe { &mut *noted };
    let service = SERVICES.get(query.service_index)?;
    let backend = BACKENDS.get(noted.backend_slot)?;
    if noted.flow.difference(&query.flow) != 0
        || noted.nat_port_be == 0
        || noted.service != service.id
        || noted.backend != backend.id
        || backend.state == BACKEND_EMPTY
        || noted.flags & FLOW_GUESSED != 0 && backend.flags & BACKEND_SILENT != 0
    {
        return None;
    }
    // That of a backend on this node has no entry.
    let node = lookup::node(backend.node)?;
    let translation = translation().ok()?;
    if !node.takes_from(query.ifindex) || !is_at(ctx, &noted.place, translation.tags)? {
        return None;
    }
    let (overhead, mac) = if node.flags & NODE_SERVER != 0 {
        (0, Some(node.mac))
    } else if service.flags & SERVICE_NAT != 0 {
        (encap::overhead_to(node), None)
    } else {
        return None;
    };
    let config = lookup::config().ok()?;
    let family = family(ctx)?;
    let new = Ends {
        source: server::own_address(config, family).ok()?,
        source_port_be: noted.nat_port_be,
        destination: &backend.address,
        destination_port_be: backend.port_be,
    };
    // With what pads a short frame, but that is no matter.
    let length = query.bytes - NETWORK as u32 + overhead;
    if !family.has(new.destination) || node.mtu < length {
        return None;
    }
    change(ctx, family, &query.flow, &new)?;
    track::met(noted, query);
    stats::packet(noted.backend_slot, query.bytes, false);
    let Some(mac) = mac else {
        translation.backend = *backend;
        translation.hash = query.hash;
        return Some(DEPART);
    };
    readdress(ctx, mac)?;
    Some(SENT_ON)
}

/// Translates and sends what may be an answer to the node's own address, see
/// [`begin_answer`](super::begin_answer). Passes it if it is none, or where it can not be sent from here.
#[inline(always)]
pub fn answer_plain_xdp(ctx: &XdpContext) -> Result<u32, DropReason> {
    Ok(answer(ctx.ctx) as u32)
}

#[inline(never)]
#[unsafe(export_name = "nat_answer")]
extern "C" fn answer(ctx: *mut xdp_md) -> u64 {
    try_answer(&XdpContext::new(ctx))
        .unwrap_or(UNSETTLED)
        .into()
}

#[inline(always)]
fn try_answer(ctx: &XdpContext) -> Option<u32> {
    let flow = &translation().ok()?.old;
    let Some(entry) = NAT.get_ptr_mut(flow) else {
        return Some(XDP_PASS);
    };
    // SAFETY: as in `try_follow`.
    let noted = unsafe { &*entry };
    if noted.place.ifindex != ctx.ifindex() {
        return Some(XDP_PASS);
    }
    if Tags::of_note(&noted.place) != Tags::NONE {
        return None;
    }
    let new = Ends {
        source: &noted.vip,
        source_port_be: noted.vip_port_be,
        destination: &noted.client,
        destination_port_be: noted.client_port_be,
    };
    change(ctx, family(ctx)?, flow, &new)?;
    // SAFETY: as above.
    unsafe { port::met(entry, ctx.length()) };
    readdress(ctx, noted.place.mac)?;
    Some(SENT_ON)
}

/// Both ends of what a packet becomes.
struct Ends<'a> {
    source: &'a Address,
    source_port_be: u16,
    destination: &'a Address,
    destination_port_be: u16,
}

#[inline(always)]
fn family(ctx: &XdpContext) -> Option<Family> {
    let ethernet: *mut Ethernet = ctx.header(0).ok()?;
    // SAFETY: in bounds, as `header` has checked.
    Family::of(unsafe { (*ethernet).ethertype_be })
}

/// Whether the frame at hand, which had these tags, came from where the client was noted to be.
#[inline(always)]
fn is_at(ctx: &XdpContext, place: &ClientPlace, tags: Tags) -> Option<bool> {
    let ethernet: *mut Ethernet = ctx.header(0).ok()?;
    let (tag, inner_tag) = tags.noted();
    // SAFETY: in bounds, as `header` has checked.
    let mac = unsafe { (*ethernet).source };
    Some(
        mac == place.mac
            && tag == place.tag
            && inner_tag == place.inner_tag
            && ctx.ifindex() == place.ifindex,
    )
}

/// Sends the frame to `mac`, in the name of who received it.
#[inline(always)]
fn readdress(ctx: &XdpContext, mac: [u8; 6]) -> Option<()> {
    let ethernet: *mut Ethernet = ctx.header(0).ok()?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { Ethernet::readdress(ethernet, mac, (*ethernet).destination) };
    Some(())
}

/// Puts other ends into a packet of `flow` that shows its ports, and takes a hop off. Of one that has no
/// hop left nothing is changed.
#[inline(always)]
fn change(ctx: &XdpContext, family: Family, flow: &FlowKey, new: &Ends<'_>) -> Option<()> {
    let change = match family {
        Family::V4 => change_v4(ctx, flow, new)?,
        Family::V6 => change_v6(ctx, flow, new)?,
    };
    let change = change
        .half(flow.source_port_be, new.source_port_be)
        .half(flow.destination_port_be, new.destination_port_be);
    if flow.protocol == protocol::TCP {
        let tcp: *mut Tcp = ctx.header(family.transport()).ok()?;
        // SAFETY: in bounds, as `header` has checked.
        unsafe {
            (*tcp).source_be = new.source_port_be;
            (*tcp).destination_be = new.destination_port_be;
            (*tcp).checksum = change.apply((*tcp).checksum);
        }
    } else {
        let udp: *mut Udp = ctx.header(family.transport()).ok()?;
        // SAFETY: as above.
        unsafe {
            (*udp).source_be = new.source_port_be;
            (*udp).destination_be = new.destination_port_be;
            (*udp).checksum = change.apply_udp((*udp).checksum);
        }
    }
    Some(())
}

#[inline(always)]
fn change_v4(ctx: &XdpContext, flow: &FlowKey, new: &Ends<'_>) -> Option<Change> {
    let ip: *mut Ipv4 = ctx.header(NETWORK).ok()?;
    let (source, destination) = (new.source.v4_word(), new.destination.v4_word());
    let change = Change::NONE
        .word(flow.source.v4_word(), source)
        .word(flow.destination.v4_word(), destination);
    // SAFETY: in bounds, as `header` has checked.
    unsafe {
        let ttl = (*ip).ttl;
        if ttl <= 1 {
            return None;
        }
        let hop = change.half(
            u16::from_ne_bytes([ttl, 0]),
            u16::from_ne_bytes([ttl - 1, 0]),
        );
        (*ip).checksum = hop.apply((*ip).checksum);
        (*ip).ttl = ttl - 1;
        set_word::<12, _>(ip, source);
        set_word::<16, _>(ip, destination);
    }
    Some(change)
}

#[inline(always)]
fn change_v6(ctx: &XdpContext, flow: &FlowKey, new: &Ends<'_>) -> Option<Change> {
    let ip: *mut Ipv6 = ctx.header(NETWORK).ok()?;
    let (source, destination) = (&new.source.words, &new.destination.words);
    let mut change = Change::NONE;
    for (old, new) in [
        (&flow.source.words, source),
        (&flow.destination.words, destination),
    ] {
        change = change
            .word(old[0], new[0])
            .word(old[1], new[1])
            .word(old[2], new[2])
            .word(old[3], new[3]);
    }
    // SAFETY: in bounds, as `header` has checked.
    unsafe {
        if (*ip).hop_limit <= 1 {
            return None;
        }
        (*ip).hop_limit -= 1;
        set_word::<8, _>(ip, source[0]);
        set_word::<12, _>(ip, source[1]);
        set_word::<16, _>(ip, source[2]);
        set_word::<20, _>(ip, source[3]);
        set_word::<24, _>(ip, destination[0]);
        set_word::<28, _>(ip, destination[1]);
        set_word::<32, _>(ip, destination[2]);
        set_word::<36, _>(ip, destination[3]);
    }
    Some(change)
}
