//! Sockets of pods and of the node: a service's address is translated once, when a socket connects
//! or sends, so that their packets need nothing at all.
//!
//! A socket of IPv6 may name an IPv4 address mapped into one of IPv6 (RFC 4291 §2.5.5.2). The kernel
//! runs the programs of IPv6 for it, except where it sends datagrams; both see the same
//! [`Address`], and so the same service.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use fairlead_dataplane_common::{
    Address, BackendEntry, DropReason, FrontendKey, SocketKey, SocketOrigin, hash,
};

use crate::maps::SOCKET_ORIGINS;
use crate::parse::Family;
use crate::pick::{self, Asker};
use crate::verdict::{Refusal, SOCKET_PROCEED};
use crate::{lookup, stats};

/// ECONNREFUSED, what a closed port would answer.
const ECONNREFUSED: i32 = 111;

/// Gives a connecting socket a backend of the service it asks for. The pick depends on the socket,
/// so that connections spread, and stays the same while the table does.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext, family: Family) -> Result<(), Refusal> {
    if let Some(backend_slot) = translate(ctx, family, true)? {
        stats::connection(backend_slot);
    }
    Ok(())
}

/// Does the same for one datagram of an unconnected socket.
#[inline(always)]
pub fn send(ctx: &SockAddrContext, family: Family) -> Result<(), Refusal> {
    translate(ctx, family, false).map(|_| ())
}

/// Shows a socket's peer as what the socket had asked for.
#[inline(always)]
pub fn show_origin(ctx: &SockAddrContext, family: Family) -> i32 {
    let (address, port_be) = peer(ctx, family);
    let key = key(ctx, address, port_be);
    // SAFETY: an entry is never changed in place, and the kernel keeps a removed one readable until
    // the program has ended.
    let origin = unsafe { SOCKET_ORIGINS.get(&key) };
    if let Some(origin) = origin {
        set_peer(ctx, family, origin.address, origin.port_be);
    }
    SOCKET_PROCEED
}

/// Gives the operation a backend's address, and returns the backend's slot; nothing if no service was
/// asked for.
#[inline(always)]
fn translate(
    ctx: &SockAddrContext,
    family: Family,
    connects: bool,
) -> Result<Option<u32>, Refusal> {
    let config = lookup::config()?;
    let (address, port_be) = peer(ctx, family);
    // SAFETY: the context is the program's own.
    let protocol = unsafe { (*ctx.sock_addr).protocol } as u8;
    let asked = FrontendKey::new(0, address, protocol, port_be);
    let Some(service) = lookup::of_socket(config, &asked) else {
        return Ok(None);
    };
    let asker = Asker {
        hash: hash::socket(&config.seed, cookie(ctx), &address, port_be),
        // SAFETY: the context is the program's own.
        netns_cookie: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        asked: address,
        connects,
    };
    let (backend_slot, backend) = pick::for_socket(config, service, &asker).map_err(refused)?;
    // A socket reaches a backend of the other family by no address it could be given.
    if backend.address.is_v4() != asked.address.is_v4() {
        let reason = DropReason::UnsupportedFamily;
        return Err(refused(Refusal::of_service(reason, service)));
    }
    remember(ctx, &asked, backend);
    set_peer(ctx, family, backend.address, backend.port_be);
    Ok(Some(backend_slot))
}

/// `refusal`, with the error that the socket's owner is to see.
#[inline(always)]
fn refused(refusal: Refusal) -> Refusal {
    // SAFETY: takes a number only.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    refusal
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
fn peer(ctx: &SockAddrContext, family: Family) -> (Address, u16) {
    let fields = ctx.sock_addr;
    // SAFETY: the context is the program's own. The kernel keeps the port in network order in the
    // low half of its word. Words of addresses are read one by one: the verifier refuses what the
    // compiler may make of a copy (a pointer into the context that has been moved).
    unsafe {
        let address = match family {
            Family::V4 => Address::from_v4_word((*fields).user_ip4),
            Family::V6 => Address {
                words: [
                    (&raw const (*fields).user_ip6[0]).read_volatile(),
                    (&raw const (*fields).user_ip6[1]).read_volatile(),
                    (&raw const (*fields).user_ip6[2]).read_volatile(),
                    (&raw const (*fields).user_ip6[3]).read_volatile(),
                ],
            },
        };
        (address, (*fields).user_port as u16)
    }
}

#[inline(always)]
fn set_peer(ctx: &SockAddrContext, family: Family, address: Address, port_be: u16) {
    let fields = ctx.sock_addr;
    // SAFETY: as above; all these fields may be written by programs of these hooks.
    unsafe {
        match family {
            Family::V4 => (*fields).user_ip4 = address.v4_word(),
            Family::V6 => {
                let [first, second, third, fourth] = address.words;
                (&raw mut (*fields).user_ip6[0]).write_volatile(first);
                (&raw mut (*fields).user_ip6[1]).write_volatile(second);
                (&raw mut (*fields).user_ip6[2]).write_volatile(third);
                (&raw mut (*fields).user_ip6[3]).write_volatile(fourth);
            }
        }
        (*fields).user_port = u32::from(port_be);
    }
}
