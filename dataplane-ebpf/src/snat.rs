//! Masquerading of IPv4: pods reach the outside in the node's name, by ports of our own.

use aya_ebpf::bindings::{__sk_buff, BPF_ANY, BPF_NOEXIST, TC_ACT_OK};
use aya_ebpf::helpers::bpf_jiffies64;
use aya_ebpf::programs::TcContext;
use fairlead_dataplane_common::maps::{SNAT_PORT_MAX, SNAT_PORT_MIN};
use fairlead_dataplane_common::{Address, Config, DropReason, FlowEntry, FlowKey, hash, protocol};

use crate::frame::Frame;
use crate::maps::{SNAT_IN, SNAT_OUT};
use crate::parse::{self, Packet, Shape};
use crate::rewrite::{self, End, Peer};
use crate::verdict::{Pack, Packed};
use crate::{fragment, lookup, reply};

/// Ports tried for a new flow before it is dropped. The first is chosen by the flow's hash; at half
/// the ports taken towards one destination, 32 fail once in four billion flows.
const ATTEMPTS: u32 = 32;

const PORTS: u32 = (SNAT_PORT_MAX - SNAT_PORT_MIN) as u32 + 1;

/// Puts the node in place of the pod that sends.
#[inline(never)]
#[unsafe(export_name = "snat_leave")]
pub extern "C" fn leave(skb: *mut __sk_buff) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::ipv4(ctx, 0)
        .and_then(|packet| try_leave(ctx, &packet))
        .pack()
}

#[inline(always)]
fn try_leave(ctx: &TcContext, packet: &Packet) -> Result<i32, DropReason> {
    let flow = match packet.shape {
        Shape::Ports | Shape::EchoRequest => packet.flow,
        Shape::FirstFragment | Shape::LaterFragment => {
            let flow = fragment::flow(ctx, packet)?.ok_or(fragment::unknown(packet))?;
            fragment::note(ctx, packet, &flow)?;
            flow
        }
        Shape::Options => return Err(DropReason::IpOptions),
        Shape::EchoReply | Shape::Error | Shape::Discovery | Shape::Other => {
            return Err(DropReason::UnsupportedProtocol);
        }
    };
    let node = source_of(ctx, lookup::config()?, &flow)?;
    rewrite::replace(
        ctx,
        packet,
        End::Source,
        Peer::of_flow(&flow, End::Source),
        node,
    )?;
    Ok(TC_ACT_OK)
}

/// As whom a pod's packet of `flow` leaves.
#[inline(always)]
fn source_of(ctx: &TcContext, config: &Config, flow: &FlowKey) -> Result<Peer, DropReason> {
    if config.masquerade_word == 0 {
        return Err(DropReason::NoRoute);
    }
    let own = Address::from_v4_word(config.masquerade_word);
    let key = *flow;
    let port_be = match SNAT_OUT.get_ptr_mut(&key) {
        Some(entry) => {
            // SAFETY: the kernel keeps a removed element readable until the program has ended; the
            // counts of two CPUs that meet here may lose one, which is all they lose.
            let port_be = unsafe {
                reply::met(entry, ctx.length());
                (*entry).port_be
            };
            restore_way_back(own, flow, port_be);
            port_be
        }
        None => allocate(ctx, config, own, &key)?,
    };
    Ok(Peer {
        address: own,
        port_be,
    })
}

/// Puts the pod back in place of the node in an answer from the outside, and hands it over. What
/// answers none of our flows is left to the node itself.
#[inline(never)]
#[unsafe(export_name = "snat_come_back")]
pub extern "C" fn come_back(skb: *mut __sk_buff) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::ipv4(ctx, 0)
        .and_then(|packet| try_come_back(ctx, &packet))
        .pack()
}

#[inline(always)]
fn try_come_back(ctx: &TcContext, packet: &Packet) -> Result<i32, DropReason> {
    let flow = match packet.shape {
        Shape::Ports | Shape::EchoReply => packet.flow,
        Shape::FirstFragment | Shape::LaterFragment => match fragment::flow(ctx, packet)? {
            Some(flow) => flow,
            None => return Ok(TC_ACT_OK),
        },
        Shape::EchoRequest | Shape::Error | Shape::Discovery | Shape::Other | Shape::Options => {
            return Ok(TC_ACT_OK);
        }
    };
    if !in_range(flow.destination_port_be) {
        return Ok(TC_ACT_OK);
    }
    let Some(entry) = SNAT_IN.get_ptr_mut(&flow) else {
        return Ok(TC_ACT_OK);
    };
    // SAFETY: as in `source_of`.
    let pod = unsafe {
        reply::met(entry, ctx.length());
        Peer {
            address: (*entry).address,
            port_be: (*entry).port_be,
        }
    };
    if packet.shape == Shape::FirstFragment {
        fragment::note(ctx, packet, &flow)?;
    }
    let endpoint = lookup::endpoint(flow.vpc, pod.address).ok_or(DropReason::NoEndpoint)?;
    let node = Peer::of_flow(&flow, End::Destination);
    rewrite::replace(ctx, packet, End::Destination, node, pod)?;
    reply::hand_over(ctx, endpoint)
}

/// Takes a free port of the node towards the flow's destination: both directions are entered, the
/// one that must be unique first.
#[inline(always)]
fn allocate(
    ctx: &TcContext,
    config: &Config,
    own: Address,
    flow: &FlowKey,
) -> Result<u16, DropReason> {
    let first = hash::reduce(hash::flow(&config.seed, flow), PORTS);
    // SAFETY: takes nothing.
    let seen_jiffies = unsafe { bpf_jiffies64() };
    let bytes = u64::from(ctx.length());
    let back = FlowEntry {
        address: flow.source,
        port_be: flow.source_port_be,
        seen_jiffies,
        ..EMPTY
    };
    let mut key = way_back(own, flow, 0);
    for attempt in 0..ATTEMPTS {
        let offset = first + attempt;
        let offset = if offset >= PORTS {
            offset - PORTS
        } else {
            offset
        };
        let port_be = (SNAT_PORT_MIN + offset as u16).to_be();
        set_port(&mut key, port_be);
        if SNAT_IN.insert(&key, &back, u64::from(BPF_NOEXIST)).is_ok() {
            let entry = FlowEntry {
                address: own,
                port_be,
                seen_jiffies,
                packets: 1,
                bytes,
                ..EMPTY
            };
            SNAT_OUT
                .insert(flow, &entry, u64::from(BPF_ANY))
                .map_err(|_| DropReason::SnatExhausted)?;
            return Ok(port_be);
        }
    }
    Err(DropReason::SnatExhausted)
}

/// The two directions age apart, so an idle answer may have been evicted under a flow that still
/// sends.
#[inline(always)]
fn restore_way_back(own: Address, flow: &FlowKey, port_be: u16) {
    let key = way_back(own, flow, port_be);
    if SNAT_IN.get_ptr(&key).is_some() {
        return;
    }
    let back = FlowEntry {
        address: flow.source,
        port_be: flow.source_port_be,
        // SAFETY: takes nothing.
        seen_jiffies: unsafe { bpf_jiffies64() },
        ..EMPTY
    };
    // Somebody else may have taken the port meanwhile; then this flow is lost, like any whose state
    // was evicted.
    let _ = SNAT_IN.insert(&key, &back, u64::from(BPF_NOEXIST));
}

/// The answer to `flow` when it leaves from `port_be` of the node at `own`.
#[inline(always)]
fn way_back(own: Address, flow: &FlowKey, port_be: u16) -> FlowKey {
    let mut key = FlowKey {
        source: flow.destination,
        destination: own,
        vpc: flow.vpc,
        source_port_be: flow.destination_port_be,
        destination_port_be: 0,
        protocol: flow.protocol,
        padding: [0; 3],
    };
    set_port(&mut key, port_be);
    key
}

/// An echo has its identifier in both ports, see [`crate::parse`].
#[inline(always)]
fn set_port(key: &mut FlowKey, port_be: u16) {
    key.destination_port_be = port_be;
    if key.protocol == protocol::ICMP {
        key.source_port_be = port_be;
    }
}

#[inline(always)]
fn in_range(port_be: u16) -> bool {
    // The range ends with the last port there is.
    const _: () = assert!(SNAT_PORT_MAX == u16::MAX);
    u16::from_be(port_be) >= SNAT_PORT_MIN
}

const EMPTY: FlowEntry = FlowEntry {
    address: Address::UNSPECIFIED,
    port_be: 0,
    padding: 0,
    backend: 0,
    seen_jiffies: 0,
    packets: 0,
    bytes: 0,
};
