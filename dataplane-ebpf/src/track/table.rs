//! What a service's tables say of a hash.

use fairlead_dataplane_common::{
    Address, BACKEND_EMPTY, BACKEND_SILENT, Config, LUT_EMPTY, LUT_MOVING, LUT_SLOT_MASK,
    LUT_STABLE, LUT_STATE_MASK, NODE_LOCAL, SERVICE_AFFINITY, SERVICE_DESTINATION_HASH,
    SERVICE_EXTERNAL_LOCAL, SERVICE_SOURCE_HASH, ServiceEntry, hash,
};

use crate::maps::{BACKENDS, LUT};

/// What the table says of a flow.
pub struct TableSlot {
    /// Slot of the backend it names.
    pub current: u32,
    /// Slot of the backend that had it before; [`LUT_EMPTY`] if that is gone, or nothing has moved.
    pub base: u32,
    /// Its state: [`LUT_STABLE`], [`LUT_MOVING`] or `LUT_SETTLING`.
    pub state: u32,
}

/// The hash that finds the table slot of what has `of_flow` itself.
#[inline(always)]
pub fn table_hash(
    config: &Config,
    service: &ServiceEntry,
    vpc: u32,
    source: &Address,
    destination: &Address,
    of_flow: u32,
) -> u32 {
    if service.flags & (SERVICE_SOURCE_HASH | SERVICE_AFFINITY) != 0 {
        hash::source(&config.seed, vpc, source)
    } else if service.flags & SERVICE_DESTINATION_HASH != 0 {
        hash::destination(&config.seed, vpc, destination)
    } else {
        of_flow
    }
}

/// The table slot that a hash points at.
#[inline(always)]
pub fn table_slot(service: &ServiceEntry, hash: u32) -> Option<TableSlot> {
    let index = if service.flags & SERVICE_EXTERNAL_LOCAL != 0 {
        service.local_index(hash)?
    } else {
        service.lut_index(hash)?
    };
    let element = *LUT.get(index)?;
    let state = element & LUT_STATE_MASK;
    let base = if state == LUT_STABLE {
        LUT_EMPTY
    } else {
        base(service, hash)
    };
    Some(TableSlot {
        current: element & LUT_SLOT_MASK,
        base,
        state,
    })
}

/// Slot of the backend that had a hash before slots began to move, [`LUT_EMPTY`] if it is gone.
#[inline(always)]
fn base(service: &ServiceEntry, hash: u32) -> u32 {
    owner(service.base_index(hash))
}

/// Slot of a backend that had a hash after that, and has it no longer; [`LUT_EMPTY`] if there is none.
#[inline(always)]
pub fn former(service: &ServiceEntry, hash: u32, rank: u32) -> u32 {
    owner(service.former_index(hash, rank))
}

/// Slot of the backend that an element of the LUT names, [`LUT_EMPTY`] if it is gone.
#[inline(always)]
fn owner(index: Option<u32>) -> u32 {
    let Some(element) = index.and_then(|index| LUT.get(index)) else {
        return LUT_EMPTY;
    };
    let slot = *element & LUT_SLOT_MASK;
    match BACKENDS.get(slot) {
        Some(backend) if backend.state != BACKEND_EMPTY => slot,
        _ => LUT_EMPTY,
    }
}

/// Slot of the backend that a connection of which nothing is noted is taken for. At a moving slot, if
/// it is old it is the base's; but where that may be dead, and the slot's owner is not, the owner is
/// asked first, and its node passes on what is unknown there.
#[inline(always)]
pub fn presumed(slot: &TableSlot) -> u32 {
    if slot.state != LUT_MOVING
        || slot.base == LUT_EMPTY
        || is_silent(slot.base) && !is_silent(slot.current)
    {
        slot.current
    } else {
        slot.base
    }
}

/// Whether a slot holds a backend of this node.
#[inline(always)]
pub(super) fn is_here(backend_slot: u32) -> bool {
    let backend = BACKENDS.get(backend_slot);
    backend.is_some_and(|backend| backend.state != BACKEND_EMPTY && backend.node == NODE_LOCAL)
}

/// Whether a slot holds a backend whose node has fallen silent.
#[inline(always)]
fn is_silent(backend_slot: u32) -> bool {
    let backend = BACKENDS.get(backend_slot);
    backend.is_some_and(|backend| backend.flags & BACKEND_SILENT != 0)
}
