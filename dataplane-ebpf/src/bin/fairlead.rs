//! The programs of a node, by hook. Each is an entry of one line; the ways through are in the
//! library.

#![no_std]
#![no_main]

use aya_ebpf::macros::{cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};
use fairlead_dataplane_ebpf::{Family, ingress, pod, socket, uplink, verdict};

/// Every packet that a node's uplink receives, before the stack allocates anything for it.
#[xdp]
pub fn xdp_ingress(ctx: XdpContext) -> u32 {
    verdict::of_xdp(&ctx, ingress::balance(&ctx))
}

/// What XDP handed up: local delivery, decapsulation, the way back of masqueraded flows.
#[classifier]
pub fn tc_uplink_in(ctx: TcContext) -> i32 {
    verdict::of_skb(&ctx, uplink::receive(&ctx))
}

/// What leaves by an uplink: the node's own packets to pods elsewhere, and masquerading.
#[classifier]
pub fn tc_uplink_out(ctx: TcContext) -> i32 {
    verdict::of_skb(&ctx, uplink::send(&ctx).map_err(Into::into))
}

/// Every packet a pod sends, on the host's end of its veth.
#[classifier]
pub fn tc_from_pod(ctx: TcContext) -> i32 {
    verdict::of_skb(&ctx, pod::send(&ctx).map_err(Into::into))
}

/// `connect(2)` over IPv4: the socket is given a backend instead of the service's address.
#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    verdict::of_socket(socket::connect(&ctx, Family::V4))
}

/// `connect(2)` of IPv6 sockets.
#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    verdict::of_socket(socket::connect(&ctx, Family::V6))
}

/// `sendto(2)` and `sendmsg(2)` of unconnected UDP sockets over IPv4.
#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    verdict::of_socket(socket::send(&ctx, Family::V4))
}

/// `sendto(2)` and `sendmsg(2)` of unconnected UDP sockets over IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    verdict::of_socket(socket::send(&ctx, Family::V6))
}

/// `recvfrom(2)` and `recvmsg(2)` of IPv4 sockets: the sender is shown as the service it answers
/// for.
#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::show_origin(&ctx, Family::V4)
}

/// `recvfrom(2)` and `recvmsg(2)` of IPv6 sockets.
#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    socket::show_origin(&ctx, Family::V6)
}

/// `getpeername(2)` of IPv4 sockets: the peer is shown as the service that was asked for.
#[cgroup_sock_addr(getpeername4)]
pub fn sock_getpeername4(ctx: SockAddrContext) -> i32 {
    socket::show_origin(&ctx, Family::V4)
}

/// `getpeername(2)` of IPv6 sockets.
#[cgroup_sock_addr(getpeername6)]
pub fn sock_getpeername6(ctx: SockAddrContext) -> i32 {
    socket::show_origin(&ctx, Family::V6)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing in the programs panics; were it to, the verifier would refuse this loop.
    loop {}
}

/// Apache-2.0 is not on the kernel's list; the helpers used need the declaration of a compatible
/// licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
