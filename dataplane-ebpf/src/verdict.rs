//! How programs end: the one exit that counts what is dropped.

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::programs::{TcContext, XdpContext};
use fairlead_dataplane_common::DropReason;

use crate::frame::Frame;
use crate::maps::DROPS;

/// Lets the operation on a socket proceed.
pub const SOCKET_PROCEED: i32 = 1;
/// Refuses it; the caller has set the error.
const SOCKET_REFUSE: i32 = 0;

/// The XDP action that `result` asks for.
#[inline(always)]
pub fn of_xdp(ctx: &XdpContext, result: Result<u32, DropReason>) -> u32 {
    match result {
        Ok(action) => action,
        Err(reason) => {
            count(reason, ctx.length());
            XDP_DROP
        }
    }
}

/// The TC action that `result` asks for.
#[inline(always)]
pub fn of_skb(ctx: &TcContext, result: Result<i32, DropReason>) -> i32 {
    match result {
        Ok(action) => action,
        Err(reason) => {
            count(reason, ctx.length());
            TC_ACT_SHOT
        }
    }
}

/// What becomes of the operation on a socket.
#[inline(always)]
pub fn of_socket(result: Result<(), DropReason>) -> i32 {
    match result {
        Ok(()) => SOCKET_PROCEED,
        Err(reason) => {
            count(reason, 0);
            SOCKET_REFUSE
        }
    }
}

#[inline(always)]
fn count(reason: DropReason, bytes: u32) {
    if let Some(drops) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the element is this CPU's own, and programs of one CPU do not interleave here.
        unsafe {
            (*drops).packets += 1;
            (*drops).bytes += u64::from(bytes);
        }
    }
}
