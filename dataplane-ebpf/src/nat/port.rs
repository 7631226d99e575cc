//! The ports of the node that flows are translated to.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_jiffies64;
use fairlead_dataplane_common::maps::{NAT_PORT_MAX, NAT_PORT_MIN};
use fairlead_dataplane_common::{Address, DropReason, FlowKey, NatEntry, hash};

use super::Translation;
use crate::header::Tcp;
use crate::maps::{FLOWS, NAT};
use crate::parse::{Packet, Shape};
use crate::{lookup, pick, server, stats};

/// Ports tried for a new flow before it is dropped. The first is chosen by the flow's hash; at half
/// the ports taken towards one backend, 32 fail once in four billion flows.
const ATTEMPTS: u32 = 32;

const PORTS: u32 = (NAT_PORT_MAX - NAT_PORT_MIN) as u32 + 1;

/// Finds the port that the flow has towards its backend, or takes one; so it is known what the packet
/// becomes. The flow's hash says where to begin, and the first free one is taken; which it was, the
/// flow's note keeps, as others may become free.
///
/// An ICMP error or a reset of a flow that has no port is dropped: nothing begins with it.
#[inline(always)]
pub fn find(translation: &mut Translation, packet: &Packet) -> Result<(), DropReason> {
    let config = lookup::config()?;
    let own = server::own_address(config, packet.family)?;
    if !packet.family.has(&translation.backend.address) {
        return Err(DropReason::FamilyMismatch);
    }
    translation.prepare(own);
    let is_error = packet.shape == Shape::Error;
    translation.answer.destination_port_be = translation.port_be;
    if translation.port_be != 0 && translation.is_entered(is_error) {
        if !is_error {
            translation.note(translation.port_be);
        }
        translation.become_nodes();
        return Ok(());
    }
    let refusal = if is_error {
        DropReason::ForeignError
    } else if packet.tcp_flags & Tcp::RST != 0 {
        DropReason::NotTranslated
    } else {
        DropReason::NatExhausted
    };
    let may_begin = matches!(refusal, DropReason::NatExhausted);
    let first = hash::reduce(translation.hash, PORTS);
    for attempt in 0..ATTEMPTS {
        let offset = first + attempt;
        let offset = if offset >= PORTS {
            offset - PORTS
        } else {
            offset
        };
        let port_be = (NAT_PORT_MIN + offset as u16).to_be();
        translation.answer.destination_port_be = port_be;
        if translation.is_entered(is_error) || may_begin && translation.enter() {
            if may_begin {
                translation.note(port_be);
            }
            translation.become_nodes();
            return Ok(());
        }
    }
    Err(refusal)
}

/// Notes on an entry that an answer has met it, and counts the answer for its backend.
///
/// # Safety
/// `entry` points at a live map element.
#[inline(always)]
pub unsafe fn met(entry: *mut NatEntry, bytes: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        (*entry).seen_jiffies = bpf_jiffies64();
        (*entry).packets += 1;
        (*entry).bytes += u64::from(bytes);
        stats::answer((*entry).backend_slot, (*entry).backend, bytes);
    }
}

impl Translation {
    /// What answers from the backend are like, but for the port, and what is to become of them.
    #[inline(always)]
    fn prepare(&mut self, node: &Address) {
        let (old, backend) = (&self.old, &self.backend);
        self.answer = FlowKey {
            source: backend.address,
            destination: *node,
            vpc: old.vpc,
            source_port_be: backend.port_be,
            destination_port_be: 0,
            protocol: old.protocol,
            padding: [0; 3],
        };
        let entry = &mut self.entry;
        entry.client = old.source;
        entry.vip = old.destination;
        entry.client_port_be = old.source_port_be;
        entry.vip_port_be = old.destination_port_be;
        entry.backend = backend.id;
        entry.padding = 0;
        // SAFETY: takes nothing.
        entry.seen_jiffies = unsafe { bpf_jiffies64() };
        entry.packets = 0;
        entry.bytes = 0;
    }

    /// Enters the answer; false if its port is taken, or there is no room.
    #[inline(always)]
    fn enter(&self) -> bool {
        NAT.insert(&self.answer, &self.entry, u64::from(BPF_NOEXIST))
            .is_ok()
    }

    /// Whether `nat` has the answer for this flow. If so, notes where the packet came from, unless it is
    /// an error: that may come from anywhere.
    #[inline(always)]
    fn is_entered(&self, is_error: bool) -> bool {
        let Some(entry) = NAT.get_ptr_mut(&self.answer) else {
            return false;
        };
        let own = &self.entry;
        // SAFETY: the kernel keeps a removed element readable until the program has ended. Where packets
        // from two places meet here, answers may take the way of either.
        unsafe {
            let is_own = (*entry).client == own.client
                && (*entry).vip == own.vip
                && (*entry).client_port_be == own.client_port_be
                && (*entry).vip_port_be == own.vip_port_be;
            if is_own && !is_error {
                (*entry).seen_jiffies = own.seen_jiffies;
                (*entry).place = own.place;
            }
            is_own
        }
    }

    /// Puts the port that was found, and where the client is, into the flow's note, if there is one: by
    /// that alone its next packets are translated, see [`established`](super::established).
    #[inline(always)]
    fn note(&self, port_be: u16) {
        let Some(noted) = pick::query()
            .ok()
            .and_then(|query| FLOWS.get_ptr_mut(&query.key))
        else {
            return;
        };
        // SAFETY: as above.
        let noted = unsafe { &mut *noted };
        if noted.flow.difference(&self.old) == 0 {
            noted.place = self.entry.place;
            noted.nat_port_be = port_be;
        }
    }

    /// The client's packet becomes what the answer answers.
    #[inline(always)]
    fn become_nodes(&mut self) {
        let answer = &self.answer;
        self.new = FlowKey {
            source: answer.destination,
            destination: answer.source,
            vpc: answer.vpc,
            source_port_be: answer.destination_port_be,
            destination_port_be: answer.source_port_be,
            protocol: answer.protocol,
            padding: [0; 3],
        };
    }
}
