//! Where things are: frontends, named backends, nodes, pods, routes.

use fairlead_dataplane_common::{
    Address, BACKEND_EMPTY, BackendEntry, Config, DropReason, EndpointEntry, EndpointKey,
    FRONTEND_ADDRESS, FRONTEND_EXTERNAL, FlowKey, FrontendEntry, FrontendKey, NODE_USED, NodeEntry,
    RouteEntry, RouteKey, SourceRangeKey,
};

use aya_ebpf::maps::lpm_trie::Key;

use crate::maps::{
    BACKEND_IDS, BACKENDS, CONFIG, ENDPOINTS, FRONTENDS, NODE_ADDRESSES, NODES, ROUTES,
    SOURCE_RANGES,
};
use crate::prefix;

/// The node's parameters. The element always exists; the verifier wants it asked for.
#[inline(always)]
pub fn config() -> Result<&'static Config, DropReason> {
    CONFIG.get(0).ok_or(DropReason::NoBackend)
}

/// The frontend of `key`, and of no prefix.
#[inline(always)]
pub fn exact(config: &Config, key: &FrontendKey) -> Option<&'static FrontendEntry> {
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
    of_packet(config, &key).filter(|entry| entry.flags & FRONTEND_EXTERNAL != 0)
}

/// Whether `address` is a VIP, or in one.
#[inline(always)]
pub fn is_vip(config: &Config, vpc: u32, address: Address) -> bool {
    of_packet(config, &FrontendKey::of_address(vpc, address))
        .is_some_and(|entry| entry.flags & FRONTEND_ADDRESS != 0)
}

/// The frontend of `key`: that of the very address, or that of a prefix it is in.
#[inline(always)]
fn of_packet(config: &Config, key: &FrontendKey) -> Option<&'static FrontendEntry> {
    match exact(config, key) {
        None if config.has_vip_prefixes != 0 => prefix::of_packet(key),
        found => found,
    }
}

/// The service that a socket asks for by `key`, of any scope.
#[inline(always)]
pub fn of_socket(config: &Config, key: &FrontendKey) -> Option<u32> {
    match exact(config, key) {
        None if config.has_vip_prefixes != 0 => prefix::of_socket(key),
        found => found.map(|entry| entry.service),
    }
}

/// Whether `client` may use the service with this id, which has source ranges.
#[inline(never)]
pub fn is_source_allowed(service: u32, client: &Address) -> bool {
    let key = Key::new(
        SourceRangeKey::BITS,
        SourceRangeKey {
            service_be: service.to_be(),
            client: *client,
        },
    );
    SOURCE_RANGES.get(&key).is_some()
}

/// The backend that another node picked and named, if it is here, and its slot.
#[inline(always)]
pub fn named_backend(id: u32) -> Option<(u32, &'static BackendEntry)> {
    // SAFETY: the value is copied at once, and an element that is replaced meanwhile is one of the
    // two values whole: it is four bytes.
    let slot = unsafe { *BACKEND_IDS.get(id)? };
    let backend = BACKENDS.get(slot)?;
    if backend.state == BACKEND_EMPTY || backend.id != id {
        None
    } else {
        Some((slot, backend))
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
