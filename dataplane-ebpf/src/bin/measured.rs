//! The packet path as the benchmark runs it. `BPF_PROG_TEST_RUN` with a repeat count feeds a program
//! its own output, so a wrapper puts the frame back as it was before it returns: `xdp_measured` in the
//! cheapest way, after dr and VXLAN over IPv4 only; `xdp_rewritten` after anything.

#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_TX};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;
use fairlead_dataplane_common::traffic::Whole;
use fairlead_dataplane_ebpf::{ingress, measure, verdict};

/// The frame that `xdp_rewritten` runs on.
#[map(name = "whole")]
static WHOLE: Array<Whole> = Array::with_max_entries(1, 0);

/// What running any program costs.
#[xdp]
pub fn xdp_floor(_ctx: XdpContext) -> u32 {
    XDP_DROP
}

/// What running one on packets of many flows costs: [`measure::next_flow`] is part of it.
#[xdp]
pub fn xdp_floor_flows(ctx: XdpContext) -> u32 {
    measure::next_flow(&ctx);
    XDP_DROP
}

/// What putting back costs a frame that nothing was added to or taken from.
#[xdp]
pub fn xdp_floor_rewritten(ctx: XdpContext) -> u32 {
    put_back(&ctx, XDP_DROP)
}

/// `xdp_ingress`, and the frame restored if it was encapsulated.
#[xdp]
pub fn xdp_measured(ctx: XdpContext) -> u32 {
    let action = verdict::of_xdp(&ctx, ingress::balance(&ctx));
    if action == XDP_TX && measure::restore(&ctx).is_err() {
        return XDP_DROP;
    }
    action
}

/// The same as `xdp_measured`, each time for another of 65,536 flows.
#[xdp]
pub fn xdp_measured_flows(ctx: XdpContext) -> u32 {
    measure::next_flow(&ctx);
    let action = verdict::of_xdp(&ctx, ingress::balance(&ctx));
    if action == XDP_TX && measure::restore(&ctx).is_err() {
        return XDP_DROP;
    }
    action
}

/// `xdp_ingress`, and the frame put back whatever became of it.
#[xdp]
pub fn xdp_rewritten(ctx: XdpContext) -> u32 {
    let action = verdict::of_xdp(&ctx, ingress::balance(&ctx));
    put_back(&ctx, action)
}

#[inline(always)]
fn put_back(ctx: &XdpContext, action: u32) -> u32 {
    match WHOLE.get(0) {
        Some(whole) if measure::put_back(ctx, whole).is_ok() => action,
        _ => XDP_DROP,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
