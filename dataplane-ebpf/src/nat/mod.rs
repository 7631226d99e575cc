//! Full NAT (IPVS' NAT with the source translated too): a client's packet leaves from the node's own
//! address and a port of ours, for the backend's; the answer comes back to that port and goes to the
//! client in the VIP's name. For networks that refuse answers by another way than the questions went.
//!
//! [`question`] sends what clients send, [`answer`] what comes back; [`port`] gives flows their ports;
//! [`change`] rewrites packets, and [`error`] the ICMP errors about them; [`established`] does all of it at
//! once where nothing is left to find out, which is what most packets meet. Both directions are
//! translated in XDP where the next hop is known: the backend's by its node, and the client's by the
//! frame that its last packet came in. All else is TC's.

mod answer;
mod change;
mod error;
mod established;
mod port;
mod question;

use fairlead_dataplane_common::maps::{NAT_PORT_MAX, NAT_PORT_MIN};
use fairlead_dataplane_common::{BackendEntry, DropReason, FlowKey, NatEntry};

pub use self::answer::{answer_skb, answer_xdp};
pub use self::established::{UNSETTLED, answer_plain_xdp, follow_xdp, is_plain, may_follow};
pub use self::question::{send_skb, send_xdp};
use crate::maps::TRANSLATION;
use crate::pick::Pick;
use crate::vlan::Tags;

/// Whether `port_be` may be one of ours.
#[inline(always)]
pub fn is_port(port_be: u16) -> bool {
    (NAT_PORT_MIN..=NAT_PORT_MAX).contains(&u16::from_be(port_be))
}

/// A translation in the making: one for each CPU, in a map, as the stack has no room for it.
#[repr(C)]
pub struct Translation {
    /// The packet's flow.
    old: FlowKey,
    /// What it becomes.
    new: FlowKey,
    /// The answer to that, as `nat` has it.
    answer: FlowKey,
    /// What becomes of the answer, and where the client is.
    entry: NatEntry,
    /// Who is to get a client's packet.
    backend: BackendEntry,
    /// Of a client's flow.
    hash: u32,
    /// Bytes of headers that will stand before the packet.
    overhead: u32,
    /// The tags of the frame at hand in XDP, see [`hold`].
    tags: Tags,
    /// The port that a client's flow was given before, network order; 0 if none.
    port_be: u16,
}

/// This CPU's.
#[inline(always)]
fn translation() -> Result<&'static mut Translation, DropReason> {
    let element = TRANSLATION.get_ptr_mut(0).ok_or(DropReason::NoBackend)?;
    // SAFETY: the element is this CPU's own, programs of one CPU do not interleave here, and nobody
    // keeps the reference longer than its own function.
    Ok(unsafe { &mut *element })
}

/// Says which VLAN tags the frame at hand had in XDP. Who holds some holds [`Tags::NONE`] again when it
/// is done: frames without tags do not pay for a look.
#[inline(always)]
pub fn hold(tags: Tags) -> Result<(), DropReason> {
    translation()?.tags = tags;
    Ok(())
}

/// Begins the translation of a client's packet of `flow` for the backend that was picked.
#[inline(always)]
pub fn begin(flow: &FlowKey, pick: &Pick) -> Result<(), DropReason> {
    let translation = translation()?;
    translation.old = *flow;
    translation.backend = *pick.backend;
    translation.entry.backend_slot = pick.found.backend_slot();
    translation.hash = pick.hash;
    translation.port_be = pick.found.nat_port_be();
    Ok(())
}

/// Begins the translation of what may be an answer, of `flow`.
#[inline(always)]
pub fn begin_answer(flow: &FlowKey) -> Result<(), DropReason> {
    let translation = translation()?;
    translation.old = *flow;
    translation.overhead = 0;
    Ok(())
}
