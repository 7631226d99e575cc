//! Connections that nobody here knows.
//!
//! While a table slot has changed hands, a packet in the middle of a connection may reach any of several
//! backends: the one that has the slot, the one that had it before slots began to move, and those that
//! had it in between. Who balances knows which from `flows`; a node that took over from one that died
//! does not, and guesses. The node of the backend that was guessed sees whether the connection is known
//! there, and passes a packet of one that is not to the next backend that may have it.
//!
//! All nodes have these *candidates* in one order: whom a balancing node would guess, the others from
//! the newest to the oldest, and last those on silent nodes. After the last comes the first. The mark in
//! the inner source address says how often the packet may still be passed on; the first node sets it to
//! one less than there are candidates, each counts it down, and at nought the packet stays. So nobody
//! is asked twice while nodes agree on the tables, and it ends all the same where they do not.
//!
//! A packet may also be for a backend that has left this node, as its time to drain was over: nodes find
//! that out one after the other, each when it looks. Such a packet goes to the first candidate, and
//! where there is none its client gets a reset from here, as it would from who sent it a moment later.
//!
//! A connection is known where its answers are (`replies`, `newcomers`). Those maps are pinned, so they
//! survive the agent, and are far larger than what is open at any time; what they have lost all the same
//! is passed on in vain, and only while its slot has candidates.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use fairlead_dataplane_common::{
    BACKEND_EMPTY, BACKEND_SERVER, BACKEND_SILENT, Config, Counter, DropReason, FORMERS_PER_SLOT,
    LUT_EMPTY, LUT_SLOT_MASK, LUT_STABLE, NODE_LOCAL, NODE_SERVER, ServiceEntry, hash, protocol,
};

use crate::encap::{self, Label};
use crate::header::Tcp;
use crate::maps::{BACKENDS, SERVICES};
use crate::parse::{Packet, Shape};
use crate::reply::{self, Delivery};
use crate::stage::{DELIVER_ELSEWHERE, DELIVER_LAST, UNKNOWN};
use crate::verdict::{Pack, Packed, Refusal, Unpack};
use crate::{lookup, parse, reset, stats, track};

/// Delivers a client's packet as [`reply`] has it noted, unless the connection is unknown there and may
/// be another's.
#[inline(always)]
pub fn deliver(ctx: &TcContext) -> Result<i32, DropReason> {
    let skb = ctx.skb.skb;
    match reply::deliver(skb, true).unpack_skb()? {
        UNKNOWN => {}
        action => return Ok(action),
    }
    match next() {
        NOBODY => {}
        whom => match pass_on(skb, whom).unpack_skb()? {
            DELIVER_LAST => {}
            action => return Ok(action),
        },
    }
    reply::deliver(skb, false).unpack_skb()
}

/// Notes a client's packet for a backend that is not here. Only a segment in the middle of a connection is
/// anybody else's; what begins one may be for a backend that this node is about to hear of.
#[inline(always)]
pub fn hand_in(config: &Config, packet: &Packet, chances_left: u32) -> Result<i32, DropReason> {
    let flow = &packet.flow;
    let is_midway = packet.shape == Shape::Ports
        && flow.protocol == protocol::TCP
        && !packet.opens
        && packet.tcp_flags & Tcp::RST == 0;
    if !is_midway {
        return Err(DropReason::UnknownBackend);
    }
    let frontend = lookup::external(config, flow).ok_or(DropReason::UnknownBackend)?;
    reset::begin(frontend.service)?;
    reply::hand_on(flow, LUT_EMPTY, chances_left, DELIVER_ELSEWHERE)
}

/// Gives a packet that [`hand_in`] has noted to who may have its connection, or answers its client.
#[inline(always)]
pub fn redirect(ctx: &TcContext) -> Result<i32, Refusal> {
    let skb = ctx.skb.skb;
    match next() {
        NOBODY => {}
        whom => match pass_on(skb, whom).unpack_skb()? {
            DELIVER_LAST => {}
            action => return Ok(action),
        },
    }
    match reply::delivery()? {
        (Delivery { backend_slot, .. }, _) if *backend_slot != LUT_EMPTY => {
            Ok(reply::deliver(skb, false).unpack_skb()?)
        }
        _ => Ok(reset::answer_skb(skb, true).unpack_refusal()? as i32),
    }
}

/// No answer of [`next`]: nobody else may have the connection.
const NOBODY: u32 = LUT_EMPTY;

/// In an answer of [`next`], above the backend's slot: how often the packet may be passed on after that.
const CHANCES_SHIFT: u32 = LUT_SLOT_MASK.trailing_ones();

/// Passes the packet on to whom [`next`] has named. If that is here, the packet is noted to be delivered
/// to it.
#[inline(never)]
#[unsafe(export_name = "second_chance_pass_on")]
extern "C" fn pass_on(skb: *mut __sk_buff, whom: u32) -> Packed {
    try_pass_on(&TcContext::new(skb), whom).pack()
}

#[inline(always)]
fn try_pass_on(ctx: &TcContext, whom: u32) -> Result<i32, DropReason> {
    let slot = whom & LUT_SLOT_MASK;
    let config = lookup::config()?;
    let (Delivery { flow, .. }, _) = reply::delivery()?;
    let other = BACKENDS.get(slot).ok_or(DropReason::NoBackend)?;
    if other.node == NODE_LOCAL {
        return reply::hand_in(&{ *flow }, slot, DELIVER_LAST);
    }
    let node = match lookup::node(other.node) {
        Some(node) if node.flags & NODE_SERVER == 0 => node,
        _ => return Ok(DELIVER_LAST),
    };
    stats::count(Counter::SecondChance);
    let packet = parse::of(ctx, flow.vpc)?;
    let label = Label::second_chance(config, other.id, whom >> CHANCES_SHIFT);
    let hash = hash::flow(&config.seed, flow);
    encap::send_skb(ctx, config, node, &packet, hash, label)
}

/// How many candidates there can be.
const CANDIDATES_MAX: u32 = 2 + FORMERS_PER_SLOT;

/// Where a candidate stands in the order, above its slot: behind all that are not silent, if it is.
const PLACE_SHIFT: u32 = CHANCES_SHIFT;
const PLACE_OF_SILENT: u32 = CANDIDATES_MAX;

/// Slot of the backend that may know the connection which the one noted does not, with the chances that
/// are left then; [`NOBODY`] if there is none.
#[inline(never)]
#[unsafe(export_name = "second_chance_next")]
extern "C" fn next() -> u32 {
    find_next().unwrap_or(NOBODY)
}

#[inline(always)]
fn find_next() -> Option<u32> {
    let (delivery, asked) = reply::delivery().ok()?;
    let flow = &delivery.flow;
    let config = lookup::config().ok()?;
    let frontend = lookup::external(config, flow)?;
    let index = ServiceEntry::index(config.bank, frontend.service);
    let service = SERVICES.get(index)?;
    let (source, destination) = (&flow.source, &flow.destination);
    let of_flow = hash::flow(&config.seed, flow);
    let hash = track::table_hash(config, service, flow.vpc, source, destination, of_flow);
    let slot = track::table_slot(service, hash)?;
    if slot.state == LUT_STABLE && service.former_length == 0 {
        return None;
    }
    let first = track::presumed(&slot);
    let second = if first == slot.current {
        slot.base
    } else {
        slot.current
    };
    let mut places = [NOBODY; CANDIDATES_MAX as usize];
    // Behind every place: who is not a candidate passes nothing on.
    let mut own = u32::MAX;
    let mut others = 0;
    for (place, noted) in (0..CANDIDATES_MAX).zip(&mut places) {
        let candidate = match place {
            0 => first,
            1 => second,
            _ => track::former(service, hash, place - 2),
        };
        if place > 0 && candidate == first || place > 1 && candidate == second {
            continue;
        }
        let Some(backend) = BACKENDS.get(candidate) else {
            continue;
        };
        // Servers outside know no marks.
        if backend.state == BACKEND_EMPTY || backend.flags & BACKEND_SERVER != 0 {
            continue;
        }
        let place = if backend.flags & BACKEND_SILENT != 0 {
            PLACE_OF_SILENT + place
        } else {
            place
        };
        if backend.id == asked.id {
            own = place << PLACE_SHIFT | candidate;
        } else if backend.node != NODE_LOCAL {
            *noted = place << PLACE_SHIFT | candidate;
            others += 1;
        } else if knows(candidate) {
            return Some(candidate);
        }
    }
    let chances = if delivery.chances_left < others {
        delivery.chances_left
    } else {
        others
    };
    // If it was for one that is not here, the first candidate is next.
    let is_here = delivery.backend_slot != LUT_EMPTY;
    if own == u32::MAX && is_here || chances == 0 {
        return None;
    }
    let (mut after, mut lowest) = (u32::MAX, u32::MAX);
    for noted in places {
        if noted == NOBODY {
            continue;
        }
        if noted > own && noted < after {
            after = noted;
        }
        if noted < lowest {
            lowest = noted;
        }
    }
    let next = if after == u32::MAX { lowest } else { after };
    Some(next & LUT_SLOT_MASK | (chances - 1) << CHANCES_SHIFT)
}

/// Whether the backend of this node in `slot` knows the connection.
#[inline(never)]
fn knows(slot: u32) -> bool {
    match (reply::delivery(), BACKENDS.get(slot)) {
        (Ok((Delivery { flow, .. }, _)), Some(backend)) => reply::knows(flow, backend),
        _ => false,
    }
}
