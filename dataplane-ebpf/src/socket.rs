//! Sockets of pods and of the node: a service's address is translated once, when a socket connects
//! or sends, so that their packets need nothing at all.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use fairlead_dataplane_common::{
    Address, BackendEntry, DropReason, FrontendEntry, FrontendKey, SocketKey, SocketOrigin, hash,
};

use crate::maps::SOCKET_ORIGINS;
use crate::verdict::SOCKET_PROCEED;
use crate::{lookup, stats};

/// ECONNREFUSED, what a closed port would answer.
const ECONNREFUSED: i32 = 111;

/// Gives a connecting socket a backend of the service it asks for. The pick depends on the socket,
/// so that connections spread, and stays the same while the table does.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext) -> Result<(), DropReason> {
    if let Some(frontend) = translate(ctx)? {
        stats::connection(frontend.service);
    }
    Ok(())
}

/// Does the same for one datagram of an unconnected socket.
#[inline(always)]
pub fn send(ctx: &SockAddrContext) -> Result<(), DropReason> {
    translate(ctx).map(|_| ())
}

/// Shows a socket's peer as what the socket had asked for.
#[inline(always)]
pub fn show_origin(ctx: &SockAddrContext) -> i32 {
    let (address, port_be) = peer(ctx);
    let key = key(ctx, address, port_be);
    // SAFETY: an entry is never changed in place, and the kernel keeps a removed one readable until
    // the program has ended.
    let origin = unsafe { SOCKET_ORIGINS.get(&key) };
    if let Some(origin) = origin {
        set_peer(ctx, origin.address, origin.port_be);
    }
    SOCKET_PROCEED
}

#[inline(always)]
fn translate(ctx: &SockAddrContext) -> Result<Option<&'static FrontendEntry>, DropReason> {
    let config = lookup::config()?;
    let (address, port_be) = peer(ctx);
    // SAFETY: the context is the program's own.
    let protocol = unsafe { (*ctx.sock_addr).protocol } as u8;
    let asked = FrontendKey::new(0, address, protocol, port_be);
    let Some(frontend) = lookup::frontend(config, &asked) else {
        return Ok(None);
    };
    let hash = hash::socket(&config.seed, cookie(ctx), &address, port_be);
    let backend = match lookup::pick(config, frontend.service, hash) {
        Ok(pick) => pick.backend,
        Err(reason) => {
            // SAFETY: takes a number only.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            return Err(reason);
        }
    };
    remember(ctx, &asked, backend);
    set_peer(ctx, backend.address, backend.port_be);
    Ok(Some(frontend))
}

#[inline(always)]
fn remember(ctx: &SockAddrContext, asked: &FrontendKey, backend: &BackendEntry) {
    let origin = SocketOrigin {
        address: asked.address,
        port_be: asked.port_be,
        padding: 0,
        backend: backend.id,
    };
    // An LRU map makes room. If it cannot, the socket works and sees the backend's own address.
    let key = key(ctx, backend.address, backend.port_be);
    let _ = SOCKET_ORIGINS.insert(&key, &origin, u64::from(BPF_ANY));
}

#[inline(always)]
fn key(ctx: &SockAddrContext, address: Address, port_be: u16) -> SocketKey {
    // SAFETY: the context is the program's own.
    let protocol = unsafe { (*ctx.sock_addr).protocol } as u8;
    SocketKey {
        cookie: cookie(ctx),
        address,
        port_be,
        protocol,
        padding: [0; 5],
    }
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the program's own.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The address and port, in network order, that the operation names.
#[inline(always)]
fn peer(ctx: &SockAddrContext) -> (Address, u16) {
    // SAFETY: the context is the program's own. The kernel keeps the port in network order in the
    // low half of its word.
    unsafe {
        let address = Address::from_v4_word((*ctx.sock_addr).user_ip4);
        (address, (*ctx.sock_addr).user_port as u16)
    }
}

#[inline(always)]
fn set_peer(ctx: &SockAddrContext, address: Address, port_be: u16) {
    // SAFETY: as above; both fields may be written by programs of these hooks.
    unsafe {
        (*ctx.sock_addr).user_ip4 = address.v4_word();
        (*ctx.sock_addr).user_port = u32::from(port_be);
    }
}
