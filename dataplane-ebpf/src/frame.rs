//! Bounded access to a packet's bytes: the only place where pointers into it are made.

use core::arch::asm;
use core::mem;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_xdp_load_bytes};
use aya_ebpf::programs::{TcContext, XdpContext};
use fairlead_dataplane_common::{DropReason, mac};

use crate::header::Ethernet;

/// A packet that begins with its Ethernet header, whatever holds it.
pub trait Frame {
    /// Whether what a program passes comes to another one of ours.
    const HANDS_UP: bool;

    /// Address of the first byte.
    fn start(&self) -> usize;
    /// Address behind the last byte that can be reached directly.
    fn end(&self) -> usize;
    /// Bytes of the whole packet, also those that are not reached directly.
    fn length(&self) -> u32;

    /// The interface that it came in by.
    fn ifindex(&self) -> u32;

    /// Copies the packet's beginning to `room`, also where it is not reached directly, and returns how
    /// many bytes that were.
    fn load<const ROOM: usize>(&self, room: &mut [u8; ROOM]) -> u32;

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

/// The word at byte `OFFSET` of a header, as it is in memory.
///
/// The machines that the programs run on load it at once, and the verifier lets them
/// (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`). The compiler, which knows of alignment 2 only, would load
/// two halves, and keep both on the stack until it needs the word.
///
/// # Safety
/// `header` points into a packet, in bounds.
#[inline(always)]
pub unsafe fn word<const OFFSET: usize, T: OnWire>(header: *const T) -> u32 {
    const { assert!(OFFSET + mem::size_of::<u32>() <= mem::size_of::<T>()) };
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise, and in bounds, as just asserted.
    return unsafe { header.byte_add(OFFSET).cast::<u32>().read_unaligned() };
    #[cfg(target_arch = "bpf")]
    {
        let word: u32;
        // SAFETY: as above.
        unsafe {
            asm!(
                "{word} = *(u32 *)({header} + {offset})",
                word = out(wreg) word,
                header = in(reg) header,
                offset = const OFFSET,
                options(pure, readonly, nostack),
            );
        }
        word
    }
}

/// Writes the word at byte `OFFSET` of a header, as it is in memory: [`word`]'s counterpart.
///
/// # Safety
/// `header` points into a packet, in bounds.
#[inline(always)]
pub unsafe fn set_word<const OFFSET: usize, T: OnWire>(header: *mut T, word: u32) {
    const { assert!(OFFSET + mem::size_of::<u32>() <= mem::size_of::<T>()) };
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise, and in bounds, as just asserted.
    unsafe {
        header.byte_add(OFFSET).cast::<u32>().write_unaligned(word);
    }
    #[cfg(target_arch = "bpf")]
    // SAFETY: as above.
    unsafe {
        asm!(
            "*(u32 *)({header} + {offset}) = {word}",
            word = in(wreg) word,
            header = in(reg) header,
            offset = const OFFSET,
            options(nostack),
        );
    }
}

impl Frame for XdpContext {
    const HANDS_UP: bool = true;

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

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn load<const ROOM: usize>(&self, room: &mut [u8; ROOM]) -> u32 {
        let length = bounded::<ROOM>(self.length());
        // SAFETY: the context is the program's own, and the room is as long as that.
        let loaded = unsafe { bpf_xdp_load_bytes(self.ctx, 0, room.as_mut_ptr().cast(), length) };
        if loaded == 0 { length } else { 0 }
    }
}

impl Frame for TcContext {
    const HANDS_UP: bool = false;

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

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe { (*self.skb.skb).ifindex }
    }

    #[inline(always)]
    fn load<const ROOM: usize>(&self, room: &mut [u8; ROOM]) -> u32 {
        let length = bounded::<ROOM>(self.len());
        // SAFETY: as above.
        let loaded =
            unsafe { bpf_skb_load_bytes(self.skb.skb.cast(), 0, room.as_mut_ptr().cast(), length) };
        if loaded == 0 { length } else { 0 }
    }
}

/// `length`, but at most `ROOM`, and at least the Ethernet header that every frame has. Not "at least 1":
/// of a comparison with zero the verifier of Linux 6.1 learns no lower bound.
#[inline(always)]
fn bounded<const ROOM: usize>(length: u32) -> u32 {
    let mut length = u64::from(length);
    // The verifier (seen with 6.18) loses the bound of half a register that is copied before it is
    // compared; to the compiler this is a whole one.
    // An instruction, not only a comment: two lines at one offset make the line information invalid.
    // SAFETY: changes nothing.
    unsafe { asm!("{0} = {0}", inout(reg) length, options(nomem, nostack)) };
    if length > ROOM as u64 {
        length = ROOM as u64;
    }
    if length < size_of::<Ethernet>() as u64 {
        length = size_of::<Ethernet>() as u64;
    }
    length as u32
}

/// Whether another node of the cluster passed the frame on as it is: then it is for a backend here,
/// and must not be passed on again.
#[inline(always)]
pub fn is_passed_on<F: Frame>(frame: &F) -> Result<bool, DropReason> {
    let ethernet: *mut Ethernet = frame.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    Ok(mac::is_node(unsafe { (*ethernet).source }))
}

/// Whether a packet is larger than what will be sent: each of its segments gets the headers.
#[inline(always)]
pub fn is_segmented_later(ctx: &TcContext) -> bool {
    // SAFETY: the context is the program's own.
    unsafe { (*ctx.skb.skb).gso_size != 0 }
}

/// Whether the sum of a packet's transport header is left to the device (`CHECKSUM_PARTIAL`): a sender
/// on the same machine does so. The field at `checksum` holds the sum of the pseudo header then, which a
/// change behind that header does not touch; the kernel tells nobody in another way.
#[inline(always)]
pub fn is_finished_by_device(ctx: &TcContext, checksum: usize) -> Result<bool, DropReason> {
    let load = || ctx.load::<u16>(checksum);
    let before = load().map_err(|_| DropReason::RewriteFailed)?;
    let replace = |from, to| {
        let replaced = ctx.l4_csum_replace(checksum, from, to, 2);
        replaced.map_err(|_| DropReason::RewriteFailed)
    };
    replace(0, 1)?;
    let after = load().map_err(|_| DropReason::RewriteFailed)?;
    replace(1, 0)?;
    Ok(before == after)
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
