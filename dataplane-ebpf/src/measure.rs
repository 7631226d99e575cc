//! What only the benchmark does to packets: see `bin/measured.rs`.

use aya_ebpf::programs::XdpContext;

use crate::frame::Frame;
use crate::header::{Ethernet, Udp};
use crate::parse::Family;

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
