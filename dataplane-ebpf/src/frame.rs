//! Bounded access to a packet's bytes: the only place where pointers into it are made.

use core::arch::asm;
use core::mem;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::programs::{TcContext, XdpContext};
use fairlead_dataplane_common::{DropReason, mac};

use crate::header::Ethernet;

/// A packet that begins with its Ethernet header, whatever holds it.
pub trait Frame {
    /// Address of the first byte.
    fn start(&self) -> usize;
    /// Address behind the last byte that can be reached directly.
    fn end(&self) -> usize;
    /// Bytes of the whole packet, also those that are not reached directly.
    fn length(&self) -> u32;

    /// The header at `offset`, or [`DropReason::Malformed`] if the packet ends before it does.
    ///
    /// Whatever moves the packet's start (adding or removing headers) ends the pointer's life; the
    /// verifier holds callers to it.
    #[inline(always)]
    fn header<T: OnWire>(&self, offset: usize) -> Result<*mut T, DropReason> {
        let start = self.start() + offset;
        if start + mem::size_of::<T>() > self.end() {
            return Err(DropReason::Malformed);
        }
        Ok(start as *mut T)
    }
}

/// What may be read from, and written to, an even address of a packet.
///
/// # Safety
/// The type's alignment is 1 or 2 and every bit pattern is a value of it.
pub unsafe trait OnWire: Copy {}

/// Loads a packet pointer from the 32-bit field at byte `$offset` of the context `$ctx`.
///
/// The kernel rewrites such a load into one of a 64-bit pointer. To the compiler it is an integer of
/// 32 bits, which it may spill as such; that loses the pointer, and the verifier (seen with 6.18)
/// refuses it: "invalid size of register spill". Assembly makes the result a whole register.
macro_rules! packet_pointer {
    ($ctx:expr, $offset:literal) => {{
        let pointer: usize;
        // SAFETY: reads a field of the program's own context. Not `nomem`: helpers change it.
        unsafe {
            asm!(
                concat!("{pointer} = *(u32 *)({ctx} + ", $offset, ")"),
                pointer = out(reg) pointer,
                ctx = in(reg) $ctx,
                options(pure, readonly, nostack),
            );
        }
        pointer
    }};
}

impl Frame for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        const _: () = assert!(mem::offset_of!(xdp_md, data) == 0);
        packet_pointer!(self.ctx, "0")
    }

    #[inline(always)]
    fn end(&self) -> usize {
        const _: () = assert!(mem::offset_of!(xdp_md, data_end) == 4);
        packet_pointer!(self.ctx, "4")
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        (self.end() - self.start()) as u32
    }
}

impl Frame for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        const _: () = assert!(mem::offset_of!(__sk_buff, data) == 76);
        packet_pointer!(self.skb.skb, "76")
    }

    #[inline(always)]
    fn end(&self) -> usize {
        const _: () = assert!(mem::offset_of!(__sk_buff, data_end) == 80);
        packet_pointer!(self.skb.skb, "80")
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.len()
    }
}

/// Whether another node of the cluster passed the frame on as it is: then it is for a backend here,
/// and must not be passed on again.
#[inline(always)]
pub fn is_passed_on<F: Frame>(frame: &F) -> Result<bool, DropReason> {
    let ethernet: *mut Ethernet = frame.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    Ok(mac::is_node(unsafe { (*ethernet).source }))
}

/// Makes the first `wanted` bytes of a packet (all of a shorter one) directly reachable. Drivers may
/// leave even headers in page fragments.
#[inline(always)]
pub fn pull(ctx: &TcContext, wanted: u32) -> Result<(), DropReason> {
    if ctx.start() + wanted as usize <= ctx.end() {
        return Ok(());
    }
    let length = ctx.len();
    let wanted = if wanted < length { wanted } else { length };
    ctx.pull_data(wanted).map_err(|_| DropReason::Malformed)
}
