//! How programs end: the one exit that counts what is dropped.

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::programs::{TcContext, XdpContext};
use core::mem;
use fairlead_dataplane_common::DropReason;

use crate::frame::Frame;
use crate::maps::DROPS;

/// Lets the operation on a socket proceed.
pub const SOCKET_PROCEED: i32 = 1;
/// Refuses it; the caller has set the error.
const SOCKET_REFUSE: i32 = 0;

/// A result in one register: what a function that is not inlined returns, because it cannot return
/// two.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Packed(u64);

/// Set in a [`Packed`] that holds a reason.
const IS_REASON: u64 = 1 << 32;

impl From<Result<u32, DropReason>> for Packed {
    #[inline(always)]
    fn from(result: Result<u32, DropReason>) -> Self {
        match result {
            Ok(value) => Self(value as u64),
            Err(reason) => Self(IS_REASON | reason as u64),
        }
    }
}

impl From<Result<i32, DropReason>> for Packed {
    #[inline(always)]
    fn from(result: Result<i32, DropReason>) -> Self {
        result.map(|value| value as u32).into()
    }
}

impl Packed {
    /// The result again, as programs for skbs have it.
    #[inline(always)]
    pub fn unpack_skb(self) -> Result<i32, DropReason> {
        self.unpack().map(|value| value as i32)
    }

    /// The result again.
    #[inline(always)]
    pub fn unpack(self) -> Result<u32, DropReason> {
        let value = self.0 as u32;
        if self.0 & IS_REASON == 0 {
            return Ok(value);
        }
        // SAFETY: made of a `DropReason`, by `from`.
        Err(unsafe { mem::transmute::<u32, DropReason>(value) })
    }
}

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
