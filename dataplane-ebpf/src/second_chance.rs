//! Connections that nobody here knows.
//!
//! While a table slot has changed hands, a packet in the middle of a connection may reach either of
//! two backends: the one that has the slot, and the one that had it before. Who balances knows which
//! from `flows`; a node that took over from one that died does not, and guesses. The node of the
//! backend that was guessed sees whether the connection is known there, and passes a packet of one that
//! is not to the other backend. The mark in the inner source address keeps it there: nobody passes
//! a packet on twice.
//!
//! A connection is known where its answers are (`replies`). That map is pinned, so it survives the
//! agent, and it is far larger than what is open at any time; what it has lost all the same is passed on
//! once too often, and only while its slot is in one of those states.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use fairlead_dataplane_common::{
    Counter, DropReason, LUT_EMPTY, LUT_STABLE, NODE_LOCAL, NODE_SERVER, ServiceEntry, hash,
};

use crate::encap::{self, Label};
use crate::maps::{BACKENDS, SERVICES};
use crate::reply::{self, Delivery};
use crate::stage::{DELIVER_LAST, UNKNOWN};
use crate::verdict::{Pack, Packed, Unpack};
use crate::{lookup, parse, stats, track};

/// Delivers a client's packet as [`reply`] has it noted, unless the connection is unknown there and may
/// be another's.
#[inline(always)]
pub fn deliver(ctx: &TcContext) -> Result<i32, DropReason> {
    let skb = ctx.skb.skb;
    match reply::deliver(skb, true).unpack_skb()? {
        UNKNOWN => {}
        action => return Ok(action),
    }
    match other() {
        LUT_EMPTY => {}
        slot => match pass_on(skb, slot).unpack_skb()? {
            DELIVER_LAST => {}
            action => return Ok(action),
        },
    }
    reply::deliver(skb, false).unpack_skb()
}

/// Passes the packet on to the backend in `slot`, to be delivered there whatever is known. If that is
/// here too and knows the connection, the packet is noted to be delivered to it.
#[inline(never)]
#[unsafe(export_name = "second_chance_pass_on")]
extern "C" fn pass_on(skb: *mut __sk_buff, slot: u32) -> Packed {
    try_pass_on(&TcContext::new(skb), slot).pack()
}

#[inline(always)]
fn try_pass_on(ctx: &TcContext, slot: u32) -> Result<i32, DropReason> {
    let config = lookup::config()?;
    let (Delivery { flow, .. }, _) = reply::delivery()?;
    let other = BACKENDS.get(slot).ok_or(DropReason::NoBackend)?;
    if other.node == NODE_LOCAL {
        return if reply::knows(flow, other) {
            reply::hand_in(&{ *flow }, slot, DELIVER_LAST)
        } else {
            Ok(DELIVER_LAST)
        };
    }
    let node = match lookup::node(other.node) {
        Some(node) if node.flags & NODE_SERVER == 0 => node,
        _ => return Ok(DELIVER_LAST),
    };
    stats::count(Counter::SecondChance);
    let packet = parse::of(ctx, flow.vpc)?;
    let label = Label::second_chance(config, other.id);
    let hash = hash::flow(&config.seed, flow);
    encap::send_skb(ctx, config, node, &packet, hash, label)
}

/// Slot of the backend that may know the connection which the one noted does not; [`LUT_EMPTY`] if
/// there is none.
#[inline(never)]
fn other() -> u32 {
    let Ok((Delivery { flow, .. }, backend)) = reply::delivery() else {
        return LUT_EMPTY;
    };
    let Ok(config) = lookup::config() else {
        return LUT_EMPTY;
    };
    let Some(frontend) = lookup::external(config, flow) else {
        return LUT_EMPTY;
    };
    let index = ServiceEntry::index(config.bank, frontend.service);
    let Some(service) = SERVICES.get(index) else {
        return LUT_EMPTY;
    };
    let (source, destination) = (&flow.source, &flow.destination);
    let of_flow = hash::flow(&config.seed, flow);
    let hash = track::table_hash(config, service, flow.vpc, source, destination, of_flow);
    let slot = match track::table_slot(service, hash) {
        Some(slot) if slot.state != LUT_STABLE && slot.base != LUT_EMPTY => slot,
        _ => return LUT_EMPTY,
    };
    let is_here = |slot| {
        BACKENDS
            .get(slot)
            .is_some_and(|other| other.id == backend.id)
    };
    match (is_here(slot.current), is_here(slot.base)) {
        (true, false) => slot.base,
        (false, true) => slot.current,
        _ => LUT_EMPTY,
    }
}
