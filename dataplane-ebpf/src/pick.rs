//! Which backend a packet of a known flow is for.

use fairlead_dataplane_common::{
    BACKEND_EMPTY, BackendEntry, Config, DropReason, FlowKey, FrontendEntry, LUT_SLOT_MASK,
    NODE_LOCAL, ServiceEntry, hash,
};

use crate::maps::{BACKENDS, LUT, SERVICES};
use crate::stats;

/// What was picked for a packet.
#[derive(Clone, Copy)]
pub struct Pick {
    /// Slot of the service that the packet is for.
    pub service_slot: u32,
    /// The service.
    pub service: &'static ServiceEntry,
    /// The backend.
    pub backend: &'static BackendEntry,
    /// Of the packet's flow.
    pub hash: u32,
}

/// What `flow` picks among the backends of the service behind `frontend`.
#[inline(always)]
pub fn pick(config: &Config, frontend: &FrontendEntry, flow: &FlowKey) -> Result<Pick, DropReason> {
    by_hash(config, frontend.service, hash::flow(&config.seed, flow))
}

/// What `hash` picks among the backends of the service in `service_slot`.
#[inline(always)]
pub fn by_hash(config: &Config, service_slot: u32, hash: u32) -> Result<Pick, DropReason> {
    match try_by_hash(config, service_slot, hash) {
        Some(pick) => Ok(pick),
        None => {
            stats::refused(service_slot);
            Err(DropReason::NoBackend)
        }
    }
}

/// The same among the service's backends that are on this node: for a packet that another node
/// passed on, and that must not be passed on again.
#[inline(always)]
pub fn local(pick: &Pick) -> Result<&'static BackendEntry, DropReason> {
    if pick.backend.node == NODE_LOCAL {
        return Ok(pick.backend);
    }
    match pick.service.local_index(pick.hash).and_then(backend_at) {
        Some(backend) if backend.node == NODE_LOCAL => Ok(backend),
        _ => Err(DropReason::NoLocalBackend),
    }
}

#[inline(always)]
fn try_by_hash(config: &Config, service_slot: u32, hash: u32) -> Option<Pick> {
    let service = SERVICES.get(ServiceEntry::index(config.bank, service_slot))?;
    let backend = backend_at(service.lut_index(hash)?)?;
    Some(Pick {
        service_slot,
        service,
        backend,
        hash,
    })
}

/// The backend that an element of the LUT names.
#[inline(always)]
fn backend_at(index: u32) -> Option<&'static BackendEntry> {
    let backend = BACKENDS.get(*LUT.get(index)? & LUT_SLOT_MASK)?;
    if backend.state == BACKEND_EMPTY {
        None
    } else {
        Some(backend)
    }
}
