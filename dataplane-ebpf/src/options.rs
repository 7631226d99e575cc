//! IPv4 options (RFC 791 §3.1) of what is for a VIP: few packets have them, and no program for XDP looks
//! behind them. Here they are taken off, as RFC 7126 §3 lets who stands between do, and the packet goes
//! the way of any other. A source route ends at the VIP, and nobody waits for a record of the way.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_NET,
};
use aya_ebpf::programs::TcContext;
use core::mem;
use fairlead_dataplane_common::DropReason;

use crate::frame::{Frame, pull};
use crate::header::{Ipv4, NETWORK};
use crate::parse::HEADERS;
use crate::verdict::{Pack, Packed};

/// Takes the options off an IPv4 packet whose header is whole. Pointers into it are invalid afterwards.
#[inline(never)]
#[unsafe(export_name = "options_take_off")]
pub extern "C" fn take_off(skb: *mut __sk_buff) -> Packed {
    try_take_off(&TcContext::new(skb)).pack()
}

#[inline(always)]
fn try_take_off(ctx: &TcContext) -> Result<i32, DropReason> {
    const PLAIN: i32 = mem::size_of::<Ipv4>() as i32;
    let ip: *mut Ipv4 = ctx.header(NETWORK)?;
    // SAFETY: in bounds, as `header` has checked, and any bytes are an `Ipv4`.
    let ip = unsafe { *ip };
    let options = i32::from(ip.version_and_length & 0xf) * 4 - PLAIN;
    // What goes is right behind the header that stays.
    ctx.adjust_room(
        -options,
        BPF_ADJ_ROOM_NET,
        u64::from(BPF_F_ADJ_ROOM_FIXED_GSO),
    )
    .map_err(|_| DropReason::RewriteFailed)?;
    let length = u16::from_be(ip.total_length_be) - options as u16;
    let ip = ip.without_options(length);
    ctx.store(NETWORK, &ip, u64::from(BPF_F_RECOMPUTE_CSUM))
        .map_err(|_| DropReason::RewriteFailed)?;
    pull(ctx, HEADERS)?;
    Ok(0)
}
