//! ICMP errors about what is translated, in both directions: an error about what answers a flow becomes
//! one about what answers the flow's translation.
//!
//! An error travels as what answers the packet it quotes: that packet is of the flow turned round. Who
//! reports it keeps its address, unless it is who was asked.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::{TcContext, XdpContext};
use fairlead_dataplane_common::{DropReason, FlowKey, checksum};

use super::{change, translation};
use crate::frame::Frame;
use crate::header::{Icmp, Ipv4, Ipv6, Udp};
use crate::parse::{self, Family, Packet};
use crate::rewrite::{self, End, Peer};
use crate::verdict::{Pack, Packed, Unpack};

/// Makes the error at hand, about what answers flow `old`, one about what answers `new`.
#[inline(always)]
pub fn translate(
    ctx: &XdpContext,
    packet: &Packet,
    old: &FlowKey,
    new: &FlowKey,
) -> Result<(), DropReason> {
    let family = packet.family;
    let reporter = packet.flow.source;
    let source = if reporter == old.source {
        &new.source
    } else {
        &reporter
    };
    let outer_before = reporter.sum() + packet.flow.destination.sum();
    let outer_after = source.sum() + new.destination.sum();
    let quoted_before = old.source.sum() + old.destination.sum();
    let quoted_after = new.source.sum() + new.destination.sum();
    let ends = (source, &new.destination);
    change::route(ctx, family, outer_before, outer_after, ends)?;
    let ports: *mut Udp = ctx.header(family.quoted_transport())?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe {
        (*ports).source_be = new.destination_port_be;
        (*ports).destination_be = new.source_port_be;
    }
    let mut before = u64::from(old.source_port_be) + u64::from(old.destination_port_be);
    let mut after = u64::from(new.source_port_be) + u64::from(new.destination_port_be);
    let quoted = family.transport() + size_of::<Icmp>();
    match family {
        Family::V4 => {
            let ip: *mut Ipv4 = ctx.header(quoted)?;
            // SAFETY: as above. The quoted header's checksum makes up for its addresses: the
            // message's does not change by them.
            unsafe {
                (*ip).checksum = checksum::update((*ip).checksum, quoted_before, quoted_after);
                (*ip).source = new.destination.v4_word();
                (*ip).destination = new.source.v4_word();
            }
        }
        Family::V6 => {
            let ip: *mut Ipv6 = ctx.header(quoted)?;
            // SAFETY: as above.
            unsafe {
                (*ip).source = new.destination.words;
                (*ip).destination = new.source.words;
            }
            before += outer_before + quoted_before;
            after += outer_after + quoted_after;
        }
    }
    let icmp: *mut Icmp = ctx.header(family.transport())?;
    // SAFETY: as above.
    unsafe { (*icmp).checksum = checksum::update((*icmp).checksum, before, after) };
    Ok(())
}

/// The same for an skb, whose hop has been taken off, by what [`Translation`](super::Translation) says:
/// one end after the other, as the stack has no room for both.
#[inline(always)]
pub fn replace(skb: *mut __sk_buff) -> Result<(), DropReason> {
    replace_end(skb, true).unpack()?;
    replace_end(skb, false).unpack()?;
    Ok(())
}

/// The first part of [`replace`] if it `is_source`, else the other.
#[inline(never)]
#[unsafe(export_name = "nat_replace_error_end")]
extern "C" fn replace_end(skb: *mut __sk_buff, is_source: bool) -> Packed {
    let ctx = &TcContext::new(skb);
    let end = if is_source {
        End::Source
    } else {
        End::Destination
    };
    parse::of(ctx, 0)
        .and_then(|packet| try_replace_end(ctx, &packet, end))
        .pack()
}

#[inline(always)]
fn try_replace_end(ctx: &TcContext, packet: &Packet, end: End) -> Result<u32, DropReason> {
    let translation = translation()?;
    let old = Peer::of_flow(&translation.old, end);
    let new = Peer::of_flow(&translation.new, end);
    if end == End::Source && packet.flow.source != old.address {
        rewrite::replace_quoted(ctx, packet, end, old, new)?;
    } else {
        rewrite::replace_error(ctx, packet, end, old, new)?;
    }
    Ok(0)
}
