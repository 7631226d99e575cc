//! From a packet to the backend it is for, and to where things are.

use fairlead_dataplane_common::{
    Address, BACKEND_EMPTY, BackendEntry, Config, DropReason, EndpointEntry, EndpointKey,
    FRONTEND_ADDRESS, FRONTEND_EXTERNAL, FlowKey, FrontendEntry, FrontendKey, LUT_SLOT_MASK,
    NODE_LOCAL, NODE_USED, NodeEntry, RouteEntry, RouteKey, ServiceEntry,
};

use aya_ebpf::maps::lpm_trie::Key;

use crate::maps::{
    BACKEND_IDS, BACKENDS, CONFIG, ENDPOINTS, FRONTENDS, LUT, NODE_ADDRESSES, NODES, ROUTES,
    SERVICES,
};
use crate::stats;

/// The node's parameters. The element always exists; the verifier wants it asked for.
#[inline(always)]
pub fn config() -> Result<&'static Config, DropReason> {
    CONFIG.get(0).ok_or(DropReason::NoBackend)
}

/// The frontend of `key`, of any scope.
#[inline(always)]
pub fn frontend(config: &Config, key: &FrontendKey) -> Option<&'static FrontendEntry> {
    let [first, second] = key.buckets();
    if let Some(bucket) = FRONTENDS.get(FrontendKey::index(config.bank, first))
        && let Some(entry) = bucket.find(key)
    {
        return Some(entry);
    }
    FRONTENDS
        .get(FrontendKey::index(config.bank, second))?
        .find(key)
}

/// The frontend that packets of `flow` are for, if they are for a VIP.
#[inline(always)]
pub fn external(config: &Config, flow: &FlowKey) -> Option<&'static FrontendEntry> {
    let key = FrontendKey::new(
        flow.vpc,
        flow.destination,
        flow.protocol,
        flow.destination_port_be,
    );
    frontend(config, &key).filter(|entry| entry.flags & FRONTEND_EXTERNAL != 0)
}

/// Whether `address` is a VIP.
#[inline(always)]
pub fn is_vip(config: &Config, vpc: u32, address: Address) -> bool {
    match frontend(config, &FrontendKey::of_address(vpc, address)) {
        Some(entry) => entry.flags & FRONTEND_ADDRESS != 0,
        None => false,
    }
}

/// What a flow's hash picked.
#[derive(Clone, Copy)]
pub struct Pick {
    /// Among the backends of this service.
    pub service: &'static ServiceEntry,
    /// The one.
    pub backend: &'static BackendEntry,
}

/// What `hash` picks among the backends of the service in `slot`.
#[inline(always)]
pub fn pick(config: &Config, slot: u32, hash: u32) -> Result<Pick, DropReason> {
    match try_pick(config, slot, hash) {
        Some(pick) => Ok(pick),
        None => {
            stats::refused(slot);
            Err(DropReason::NoBackend)
        }
    }
}

/// What `hash` picks among the service's backends that are on this node: for a packet that another
/// node passed on, and that must not be passed on again.
#[inline(always)]
pub fn pick_local(service: &ServiceEntry, hash: u32) -> Result<&'static BackendEntry, DropReason> {
    match service.local_index(hash).and_then(backend_at) {
        Some(backend) if backend.node == NODE_LOCAL => Ok(backend),
        _ => Err(DropReason::NoLocalBackend),
    }
}

#[inline(always)]
fn try_pick(config: &Config, slot: u32, hash: u32) -> Option<Pick> {
    let service = SERVICES.get(ServiceEntry::index(config.bank, slot))?;
    let backend = backend_at(service.lut_index(hash)?)?;
    Some(Pick { service, backend })
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

/// The backend that another node picked and named, if it is here.
#[inline(always)]
pub fn named_backend(id: u32) -> Option<&'static BackendEntry> {
    // SAFETY: the value is copied at once, and an element that is replaced meanwhile is one of the
    // two values whole: it is four bytes.
    let slot = unsafe { *BACKEND_IDS.get(id)? };
    let backend = BACKENDS.get(slot)?;
    if backend.state == BACKEND_EMPTY || backend.id != id {
        None
    } else {
        Some(backend)
    }
}

/// Whether `address` is that of another node of the cluster.
#[inline(always)]
pub fn is_node(address: Address) -> bool {
    let key = address;
    NODE_ADDRESSES.get_ptr(&key).is_some()
}

/// The node in `slot`.
#[inline(always)]
pub fn node(slot: u32) -> Option<&'static NodeEntry> {
    NODES.get(slot).filter(|node| node.flags & NODE_USED != 0)
}

/// The pod here that has `address`.
#[inline(always)]
pub fn endpoint(vpc: u32, address: Address) -> Option<&'static EndpointEntry> {
    let key = EndpointKey { address, vpc };
    // SAFETY: the agent never changes an entry in place, and the kernel keeps a removed one readable
    // until the program has ended.
    unsafe { ENDPOINTS.get(&key) }
}

/// Where the cluster has `address`, if it is one of the cluster's.
#[inline(always)]
pub fn route(vpc: u32, address: Address) -> Option<RouteEntry> {
    let key = Key::new(
        RouteKey::BITS,
        RouteKey {
            vpc_be: vpc.to_be(),
            address,
        },
    );
    ROUTES.get(&key).copied()
}
