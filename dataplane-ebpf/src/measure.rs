//! What only the benchmark does to packets: see `bin/measured.rs`.

use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use fairlead_dataplane_common::traffic::Whole;
use fairlead_dataplane_common::{DropReason, mac};

use crate::encap;
use crate::frame::{Frame, OnWire, is_passed_on};
use crate::header::{Ethernet, Udp};
use crate::parse::Family;

/// The headers of a frame that [`put_back`] writes, in words: as few as there are, because they are part
/// of what is measured.
#[derive(Clone, Copy)]
#[repr(C, packed(2))]
struct Headers<const WORDS: usize>([u64; WORDS]);

// SAFETY: packed to alignment 2, made of integers.
unsafe impl<const WORDS: usize> OnWire for Headers<WORDS> {}

/// Makes a TCP or UDP packet one of the flow with the next source port. The frame is its own memory of
/// whose turn it is; its checksum, which nothing on the way reads, stays as it is.
#[inline(always)]
pub fn next_flow(ctx: &XdpContext) {
    let Ok(ethernet) = ctx.header::<Ethernet>(0) else {
        return;
    };
    // SAFETY: in bounds, as `header` has checked.
    let Some(family) = Family::of(unsafe { (*ethernet).ethertype_be }) else {
        return;
    };
    // The ports of TCP are where those of UDP are.
    if let Ok(udp) = ctx.header::<Udp>(family.transport()) {
        // SAFETY: as above.
        unsafe { (*udp).source_be = (*udp).source_be.wrapping_add(1) };
    }
}

/// Takes back what dr or VXLAN over IPv4 did to a frame, but for its MAC addresses: the least that lets
/// the next packet be as this one was.
#[inline(always)]
pub fn restore(ctx: &XdpContext) -> Result<(), DropReason> {
    /// Of nobody.
    const SOURCE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
    let was_passed_on = is_passed_on(ctx)?;
    // SAFETY: the context is the program's own.
    if !was_passed_on && unsafe { bpf_xdp_adjust_head(ctx.ctx, encap::OVERHEAD_V4 as i32) } != 0 {
        return Err(DropReason::EncapsulationFailed);
    }
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { *(&raw mut (*ethernet).source).cast() = mac::words(SOURCE) };
    Ok(())
}

/// Takes back what anything did to a frame: what stands before it goes, what is missing comes back, and
/// its headers are those of `whole`.
#[inline(always)]
pub fn put_back(ctx: &XdpContext, whole: &Whole) -> Result<(), DropReason> {
    let added = ctx.length() as i32 - whole.length as i32;
    // SAFETY: the context is the program's own.
    if added != 0 && unsafe { bpf_xdp_adjust_head(ctx.ctx, added) } != 0 {
        return Err(DropReason::EncapsulationFailed);
    }
    if whole.length as usize >= Whole::LONG {
        write::<{ Whole::LONG / 8 }>(ctx, whole)
    } else {
        write::<{ Whole::SHORT / 8 }>(ctx, whole)
    }
}

#[inline(always)]
fn write<const WORDS: usize>(ctx: &XdpContext, whole: &Whole) -> Result<(), DropReason> {
    let headers: *mut Headers<WORDS> = ctx.header(0)?;
    for (index, word) in whole.headers.iter().take(WORDS).enumerate() {
        // SAFETY: in bounds, as `header` has checked. The frame begins where it did when the kernel made
        // it (`bpf_prog_test_run_xdp` in net/bpf/test_run.c), 256 bytes into a page.
        unsafe { headers.cast::<u64>().add(index).write(*word) };
    }
    Ok(())
}
