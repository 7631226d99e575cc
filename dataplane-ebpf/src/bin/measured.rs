//! The packet path as the benchmark runs it. `BPF_PROG_TEST_RUN` with a repeat count feeds a program
//! its own output, so the wrapper puts an encapsulated frame back as it was before it returns.

#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use fairlead_dataplane_ebpf::{ingress, measure, verdict};

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

/// The same as `xdp_measured`, each time for another of 65,536 flows.
#[xdp]
pub fn xdp_measured_flows(ctx: XdpContext) -> u32 {
    measure::next_flow(&ctx);
    let action = verdict::of_xdp(&ctx, ingress::balance(&ctx));
    if action == XDP_TX && ingress::restore(&ctx).is_err() {
        return XDP_DROP;
    }
    action
}

/// `xdp_ingress`, and the frame restored if it was encapsulated.
#[xdp]
pub fn xdp_measured(ctx: XdpContext) -> u32 {
    let action = verdict::of_xdp(&ctx, ingress::balance(&ctx));
    if action == XDP_TX && ingress::restore(&ctx).is_err() {
        return XDP_DROP;
    }
    action
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
