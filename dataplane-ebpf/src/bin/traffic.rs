//! The benchmarks' ends of a wire: a generator, run with live frames, and a sink.

#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use core::mem;
use fairlead_dataplane_common::traffic::{
    HEADER_BYTES, LATENCY_BUCKETS, QUEUES_MAX, Received, STAMP, STAMP_BYTES, Template,
    latency_bucket,
};

/// What is sent.
#[map(name = "template")]
static TEMPLATE: Array<Template> = Array::with_max_entries(1, 0);

/// Whose turn it is.
#[map(name = "next_flow")]
static NEXT_FLOW: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// What was received, by queue.
#[map(name = "received")]
static RECEIVED: PerCpuArray<Received> = PerCpuArray::with_max_entries(QUEUES_MAX, 0);

/// How long it took, by bucket.
#[map(name = "latency")]
static LATENCY: PerCpuArray<u64> = PerCpuArray::with_max_entries(LATENCY_BUCKETS, 0);

#[repr(C, packed(2))]
struct Headers([u16; HEADER_BYTES / 2]);

/// The last bytes of a frame.
#[repr(C, packed(2))]
struct Stamp {
    mark: u32,
    flow: u32,
    sent_ns: u64,
}

const _: () = assert!(mem::size_of::<Stamp>() == STAMP_BYTES);

/// The source port, in words from the start of a frame.
const SOURCE_PORT: usize = 17;

/// Makes a live frame one of the template's. Its page comes back with whatever its receiver wrote into
/// it, so every header is written whole.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    try_generate(&ctx).unwrap_or(XDP_ABORTED)
}

#[inline(always)]
fn try_generate(ctx: &XdpContext) -> Option<u32> {
    let template = TEMPLATE.get(0)?;
    let next = NEXT_FLOW.get_ptr_mut(0)?;
    // SAFETY: the element is this CPU's own.
    let flow = unsafe { *next };
    let following = if flow + 1 < template.flows {
        flow + 1
    } else {
        0
    };
    // SAFETY: as above.
    unsafe { *next = following };
    let mut headers = Headers(template.headers);
    headers.0[SOURCE_PORT] = template.first_port.wrapping_add(flow as u16).to_be();
    let sent_ns = if template.is_timed == 0 {
        0
    } else {
        // SAFETY: takes nothing.
        unsafe { bpf_ktime_get_ns() }
    };
    let stamp = Stamp {
        mark: STAMP,
        flow,
        sent_ns,
    };
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + mem::size_of::<Headers>() > end {
        return None;
    }
    // SAFETY: in bounds, as just checked; packet memory takes any bytes.
    unsafe { *(start as *mut Headers) = headers };
    let place = last::<Stamp>(start, end)?;
    // SAFETY: in bounds, as `last` has checked.
    unsafe { *place = stamp };
    Some(XDP_TX)
}

/// Counts and drops what a generator sent; everything else passes.
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    try_sink(&ctx).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn try_sink(ctx: &XdpContext) -> Option<u32> {
    let (start, end) = (ctx.data(), ctx.data_end());
    let stamp = last::<Stamp>(start, end)?;
    // SAFETY: in bounds, as `last` has checked; any bytes are a `Stamp`.
    let (mark, sent_ns) = unsafe { ((*stamp).mark, (*stamp).sent_ns) };
    if mark != STAMP {
        return None;
    }
    // SAFETY: a field of the program's own context.
    let queue = unsafe { (*ctx.ctx).rx_queue_index };
    let queue = if queue < QUEUES_MAX {
        queue
    } else {
        QUEUES_MAX - 1
    };
    let received = RECEIVED.get_ptr_mut(queue)?;
    // SAFETY: the element is this CPU's own.
    unsafe {
        (*received).packets += 1;
        (*received).bytes += (end - start) as u64;
    }
    if sent_ns != 0 {
        // SAFETY: takes nothing.
        let now = unsafe { bpf_ktime_get_ns() };
        let count = LATENCY.get_ptr_mut(latency_bucket(now.saturating_sub(sent_ns)))?;
        // SAFETY: the element is this CPU's own.
        unsafe { *count += 1 };
    }
    Some(XDP_DROP)
}

/// The last bytes of the packet from `start` to `end`, if it has so many.
#[inline(always)]
fn last<T>(start: usize, end: usize) -> Option<*mut T> {
    /// More than any frame has: a bound that the verifier can follow.
    const LONGEST: usize = 0x3fff;
    let offset = (end - start).wrapping_sub(mem::size_of::<T>()) & LONGEST;
    let place = start + offset;
    if place + mem::size_of::<T>() > end {
        return None;
    }
    Some(place as *mut T)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
