//! Which backend a packet of a known flow, or a socket, is for.
//!
//! A pick is a function of the flow's hash and the table: one read of one element. What cannot be
//! settled by that is [`track`]'s.

use fairlead_dataplane_common::{
    Address, BACKEND_EMPTY, BackendEntry, Config, DropReason, FRONTEND_NODE_PORT, FlowKey,
    FrontendEntry, LUT_EMPTY, LUT_SLOT_MASK, LUT_STATE_MASK, NODE_LOCAL, SERVICE_SERVERS,
    SERVICE_SLOW, SERVICE_SLOW_FOR_SOCKETS, ServiceEntry, hash,
};

use crate::frame::{Frame, is_passed_on};
use crate::maps::{BACKENDS, LUT, QUERY, SERVICES};
use crate::parse::{Packet, Shape};
use crate::track::{
    self, Found, QUERY_ERROR, QUERY_HANDS_UP, QUERY_PASSED_ON, QUERY_VIP, SocketQuery,
};
use crate::verdict::Refusal;

/// What was picked for a packet.
#[derive(Clone, Copy)]
pub struct Pick {
    /// The service that the packet is for.
    pub service: &'static ServiceEntry,
    /// The backend.
    pub backend: &'static BackendEntry,
    /// Of the packet's flow.
    pub hash: u32,
    /// What else is to be said of the pick.
    pub found: Found,
}

/// What is done with a packet whose service is known.
pub enum Choice {
    /// It goes to a backend.
    Send(Pick),
    /// Nobody takes it: see [`reset`](crate::reset).
    Refuse,
}

/// What a packet's flow and one read of the table say: all there is to it for most.
pub struct Glance {
    /// The service that the packet is for.
    pub service: &'static ServiceEntry,
    /// Its index in `services`.
    index: u32,
    /// [`hash::wide`] of the packet's flow.
    wide_hash: u64,
    /// The element of the table.
    element: u32,
}

/// Looks where the table sends a packet of `flow`, its own or the one that an ICMP error is about.
#[inline(always)]
pub fn glance(
    config: &Config,
    frontend: &FrontendEntry,
    flow: &FlowKey,
) -> Result<Glance, Refusal> {
    let wide_hash = hash::wide(&config.seed, flow);
    let index = ServiceEntry::index(config.bank, frontend.service);
    let service = SERVICES
        .get(index)
        .ok_or(Refusal::of_service(DropReason::NoBackend, frontend.service))?;
    Ok(Glance {
        service,
        index,
        wide_hash,
        element: element(service.lut_index(hash::narrow(wide_hash))).unwrap_or(LUT_EMPTY),
    })
}

impl Glance {
    /// Whether the table alone does not say where the packet goes: then a [`Query`](track::Query) has to be
    /// put together by [`ask`].
    #[inline(always)]
    pub fn is_open(&self, frontend: &FrontendEntry) -> bool {
        self.service.flags & looked_at(frontend) | self.element & LUT_STATE_MASK != 0
    }
}

/// Puts together the query of a packet whose glance is open.
#[inline(always)]
pub fn ask<F: Frame>(
    frame: &F,
    frontend: &FrontendEntry,
    packet: &Packet,
    flow: &FlowKey,
    glance: &Glance,
) -> Result<(), DropReason> {
    let query = query()?;
    query.ask(flow, glance.wide_hash, glance.index);
    query.bytes = frame.length();
    query.traits = traits(frame, frontend, packet)?;
    query.tcp_flags = packet.tcp_flags.into();
    query.ifindex = frame.ifindex();
    Ok(())
}

/// Chooses for a packet by its glance and, if that is open, the answer to its query.
#[inline(always)]
pub fn choose(
    frontend: &FrontendEntry,
    packet: &Packet,
    glance: &Glance,
) -> Result<Choice, Refusal> {
    let found = if glance.is_open(frontend) {
        let found = Found::of(track::answer());
        found
            .refusal()
            .map_err(|reason| Refusal::of_service(reason, frontend.service))?;
        found
    } else {
        Found::plain(glance.element, packet.opens)
    };
    let Some(backend) = backend(found.backend_slot()) else {
        return Ok(Choice::Refuse);
    };
    Ok(Choice::Send(Pick {
        service: glance.service,
        backend,
        hash: hash::narrow(glance.wide_hash),
        found: found.asked_at(frontend.flags),
    }))
}

/// The flags of a service that its packets at a frontend have to be looked at for.
#[inline(always)]
fn looked_at(frontend: &FrontendEntry) -> u32 {
    const SHIFT: u32 = SERVICE_SERVERS.trailing_zeros() - FRONTEND_NODE_PORT.trailing_zeros();
    SERVICE_SLOW | (frontend.flags & FRONTEND_NODE_PORT) << SHIFT
}

/// Keeps what was picked at a frontend for a later stage, which takes it up by [`kept`].
#[inline(always)]
pub fn keep(config: &Config, frontend: &FrontendEntry, pick: &Pick) -> Result<(), DropReason> {
    let query = query()?;
    query.hash = pick.hash;
    query.service_index = ServiceEntry::index(config.bank, frontend.service);
    query.found = pick.found;
    Ok(())
}

/// What [`keep`] kept, and the slot of the service.
#[inline(always)]
pub fn kept() -> Result<(u32, Pick), DropReason> {
    let query = query()?;
    let pick = Pick {
        service: SERVICES
            .get(query.service_index)
            .ok_or(DropReason::NoBackend)?,
        backend: backend(query.found.backend_slot()).ok_or(DropReason::NoBackend)?,
        hash: query.hash,
        found: query.found,
    };
    Ok((ServiceEntry::slot(query.service_index), pick))
}

/// Room for a packet's flow, where [`ask`] puts it as well: the stack has none.
#[inline(always)]
pub fn flow() -> Result<&'static mut FlowKey, DropReason> {
    Ok(&mut query()?.flow)
}

/// The query of the packet at hand.
#[inline(always)]
pub fn query() -> Result<&'static mut track::Query, DropReason> {
    let query = QUERY.get_ptr_mut(0).ok_or(DropReason::NoBackend)?;
    // SAFETY: the element is this CPU's own, and programs of one CPU do not interleave here.
    Ok(unsafe { &mut *query })
}

/// What a subprogram has to know of a packet beside its flow.
#[inline(always)]
fn traits<F: Frame>(
    frame: &F,
    frontend: &FrontendEntry,
    packet: &Packet,
) -> Result<u32, DropReason> {
    let mut traits = 0;
    if is_passed_on(frame)? {
        traits |= QUERY_PASSED_ON;
    }
    if packet.shape == Shape::Error {
        traits |= QUERY_ERROR;
    }
    if frontend.flags & FRONTEND_NODE_PORT == 0 {
        traits |= QUERY_VIP;
    }
    if F::HANDS_UP {
        traits |= QUERY_HANDS_UP;
    }
    Ok(traits)
}

/// Slot of the backend on this node for a packet that another node passed on, and that must not be
/// passed on again: the one picked, or another of the service that is here.
#[inline(always)]
pub fn local(pick: &Pick) -> Result<u32, DropReason> {
    if pick.backend.node == NODE_LOCAL {
        return Ok(pick.found.backend_slot());
    }
    let slot = element(pick.service.local_index(pick.hash)).ok_or(DropReason::NoLocalBackend)?;
    match backend(slot) {
        Some(backend) if backend.node == NODE_LOCAL => Ok(slot & LUT_SLOT_MASK),
        _ => Err(DropReason::NoLocalBackend),
    }
}

/// A socket of this node that asks for a service.
pub struct Asker {
    /// Of the socket and what it asks for.
    pub hash: u32,
    /// Its network namespace's.
    pub netns_cookie: u64,
    /// The address it asks for.
    pub asked: Address,
    /// Whether it connects; else every datagram asks anew.
    pub connects: bool,
}

/// The backend of the service in `service_slot` that a socket is given, and its slot.
#[inline(always)]
pub fn for_socket(
    config: &Config,
    service_slot: u32,
    asker: &Asker,
) -> Result<(u32, &'static BackendEntry), Refusal> {
    let refused = |reason| Refusal::of_service(reason, service_slot);
    let index = ServiceEntry::index(config.bank, service_slot);
    let service = SERVICES.get(index).ok_or(refused(DropReason::NoBackend))?;
    let mut slot = element(service.lut_index(asker.hash)).ok_or(refused(DropReason::NoBackend))?;
    if service.flags & SERVICE_SLOW_FOR_SOCKETS != 0 {
        let cookie = asker.netns_cookie;
        let query = SocketQuery {
            client: Address {
                words: [0, 0, (cookie >> 32) as u32, cookie as u32],
            },
            asked: asker.asked,
            hash: asker.hash,
            service_index: index,
            connects: asker.connects.into(),
        };
        let found = track::answer_socket(&query);
        found.refusal().map_err(refused)?;
        slot = found.backend_slot();
    }
    match backend(slot) {
        Some(backend) => Ok((slot & LUT_SLOT_MASK, backend)),
        None => Err(refused(DropReason::NoBackend)),
    }
}

#[inline(always)]
fn element(index: Option<u32>) -> Option<u32> {
    LUT.get(index?).copied()
}

/// The backend that an element of the LUT names.
#[inline(always)]
fn backend(element: u32) -> Option<&'static BackendEntry> {
    BACKENDS
        .get(element & LUT_SLOT_MASK)
        .filter(|backend| backend.state != BACKEND_EMPTY)
}
