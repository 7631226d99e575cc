//! Probes between nodes, see [`fairlead_dataplane_common::probe`]: requests are answered, and answers
//! noted for the agent. Both are looked for where nothing of IP comes by.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use fairlead_dataplane_common::{Config, Counter, DropReason, Probe, mac};

use crate::frame::{Frame, OnWire};
use crate::header::{Ethernet, NETWORK};
use crate::maps::PROBES;
use crate::verdict::{Pack, Packed};
use crate::{lookup, stats};

// SAFETY: packed to alignment 2, integers only.
unsafe impl OnWire for Probe {}

/// The bit of an address's first byte that says that it is a group's.
const GROUP: u8 = 1;

/// Takes in a probe for this node. What only looks like one, or is for another node, passes.
#[inline(never)]
#[unsafe(export_name = "probe_take")]
pub extern "C" fn take(ctx: *mut xdp_md) -> Packed {
    try_take(&XdpContext::new(ctx)).pack()
}

#[inline(always)]
fn try_take(ctx: &XdpContext) -> Result<u32, DropReason> {
    let Ok(message) = ctx.header::<Probe>(NETWORK) else {
        return Ok(XDP_PASS);
    };
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked, and any bytes are a `Probe`.
    let (probe, source) = unsafe { (*message, (*ethernet).source) };
    let config = lookup::config()?;
    let from = u32::from_be(probe.from_be);
    // One whose source was changed on the way, and not dropped, says nothing for frames that need theirs.
    let is_marked = mac::words(source) == mac::words(mac::of_node(from));
    if probe.magic_be != Probe::MAGIC.to_be() || probe.to_be != config.node_id.to_be() || !is_marked
    {
        return Ok(XDP_PASS);
    }
    match u16::from_be(probe.kind_be) {
        // One answer to a request, and to one receiver: there is nothing to be gained by asking.
        Probe::REQUEST if probe.answer_to[0] & GROUP == 0 => {
            // SAFETY: as above.
            unsafe { answer(ethernet, message, probe, config) };
            Ok(XDP_TX)
        }
        // Taken in, and no loss: passed, it would count as one at the interface.
        Probe::ANSWER if is_awaited(from, probe.nonce) => Ok(XDP_DROP),
        _ => Ok(XDP_PASS),
    }
}

/// Turns a request into its answer, which has this node's mark: both ways are proved by it.
///
/// # Safety
/// `ethernet` and `message` are headers of a frame, in bounds.
#[inline(always)]
unsafe fn answer(ethernet: *mut Ethernet, message: *mut Probe, probe: Probe, config: &Config) {
    // SAFETY: the caller's promise.
    unsafe {
        Ethernet::readdress(ethernet, probe.answer_to, mac::of_node(config.node_id));
        *message = probe.answer();
    }
    stats::count(Counter::ProbeAnswered);
}

/// Whether an answer is to the last question to the node `from`. If so, it is noted.
#[inline(always)]
fn is_awaited(from: u32, nonce: u32) -> bool {
    let Some(entry) = PROBES.get_ptr_mut(&from) else {
        return false;
    };
    // SAFETY: a live map element. The agent puts another in its place, and never changes one.
    unsafe {
        if (*entry).nonce != nonce {
            return false;
        }
        (*entry).is_answered = 1;
    }
    stats::count(Counter::ProbeNoted);
    true
}
