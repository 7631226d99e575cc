//! The largest segment that a SYN announces (RFC 9293 §3.7.1), lowered to what fits the way back: the
//! other end then never sends what would have to be refused as too big. Off the fast path.

use aya_ebpf::programs::TcContext;
use fairlead_dataplane_common::{Config, Counter, DropReason};

use crate::encap;
use crate::frame::{Frame, OnWire};
use crate::header::{NETWORK, Tcp};
use crate::maps::UPLINKS;
use crate::parse::Family;
use crate::stats;

/// Options that are looked at, paddings included, before a SYN is left as it is. The MSS is the
/// first everywhere but in tests of stacks.
const OPTIONS_MAX: u32 = 16;
/// Bytes of options that a header has at most.
const OPTIONS_LENGTH_MAX: usize = 40;

const END: u8 = 0;
const PADDING: u8 = 1;
const SEGMENT_SIZE: u8 = 2;
const SEGMENT_SIZE_LENGTH: u8 = 4;

/// An option's kind and length, and as much of its value as the MSS has.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct TcpOption([u8; 4]);

// SAFETY: bytes, of alignment 1.
unsafe impl OnWire for TcpOption {}

/// Where a SYN announces its largest segment.
#[derive(Clone, Copy)]
struct SegmentSize {
    /// Offset of the value in the frame; it may be odd.
    offset: usize,
    /// In bytes.
    value: u16,
}

/// The largest segment of `family` that fits the uplink in whatever encapsulation nodes of the
/// cluster use among themselves. Which node balances a connection may change in its life, and so
/// may the way: the narrowest counts. Nothing if the uplink's MTU is not known.
#[inline(always)]
pub fn limit(config: &Config, family: Family) -> Option<u16> {
    let overhead = if config.node_address.is_v4() {
        encap::OVERHEAD_V4
    } else {
        encap::OVERHEAD_V6
    };
    fitting(config, family, overhead)
}

/// The same where nothing but `overhead` bytes are put before a packet.
#[inline(always)]
fn fitting(config: &Config, family: Family, overhead: usize) -> Option<u16> {
    // SAFETY: the agent never changes an entry in place, and the kernel keeps a removed one readable
    // until the program has ended.
    let mtu = unsafe { UPLINKS.get(&config.uplink_ifindex) }?.mtu;
    let headers = family.transport() - NETWORK + size_of::<Tcp>() + overhead;
    let limit = mtu.checked_sub(headers as u32)?;
    Some(u16::try_from(limit).unwrap_or(u16::MAX))
}

/// Whether the TCP packet at hand opens a connection, in either direction.
#[inline(always)]
pub fn is_announced<F: Frame>(frame: &F, family: Family) -> Result<bool, DropReason> {
    let tcp: *mut Tcp = frame.header(family.transport())?;
    // SAFETY: in bounds, as `header` has checked.
    Ok(unsafe { (*tcp).flags } & Tcp::SYN != 0)
}

/// Lowers the largest segment of a SYN to `limit`. Pointers into the packet are invalid afterwards.
#[inline(always)]
pub fn clamp_skb(ctx: &TcContext, family: Family, limit: u16) -> Result<(), DropReason> {
    let Some(found) = find(ctx, family.transport()) else {
        return Ok(());
    };
    if found.value <= limit {
        return Ok(());
    }
    let (old, new) = changed_words(&found, limit);
    let check = family.transport() + Tcp::CHECKSUM;
    let update = ctx
        .l4_csum_replace(check, u64::from(old), u64::from(new), 2)
        .and_then(|()| ctx.store(found.offset, &limit.to_be(), 0));
    update.map_err(|_| DropReason::RewriteFailed)?;
    stats::count(Counter::MssClamped);
    Ok(())
}

/// The value before and after, as a checksum takes them: a value at an odd offset stands in the
/// halves of two words, which changes its bytes' places (RFC 1071 §2 B).
#[inline(always)]
fn changed_words(found: &SegmentSize, limit: u16) -> (u16, u16) {
    let (old, new) = (found.value.to_be(), limit.to_be());
    if found.offset % 2 == 0 {
        (old, new)
    } else {
        (old.swap_bytes(), new.swap_bytes())
    }
}

/// Looks through the options of the TCP header at `transport`.
#[inline(always)]
fn find<F: Frame>(frame: &F, transport: usize) -> Option<SegmentSize> {
    let tcp: *mut Tcp = frame.header(transport).ok()?;
    // SAFETY: in bounds, as `header` has checked.
    let header = usize::from(unsafe { (*tcp).data_offset } >> 4) * 4;
    let length = header.checked_sub(size_of::<Tcp>())?;
    let options = transport + size_of::<Tcp>();
    let mut at = 0;
    for _ in 0..OPTIONS_MAX {
        if at + size_of::<TcpOption>() > length || at > OPTIONS_LENGTH_MAX {
            return None;
        }
        let option: *mut TcpOption = frame.header(options + at).ok()?;
        // SAFETY: in bounds, as `header` has checked.
        let [kind, length, high, low] = unsafe { (*option).0 };
        match kind {
            END => return None,
            PADDING => at += 1,
            SEGMENT_SIZE if length == SEGMENT_SIZE_LENGTH => {
                return Some(SegmentSize {
                    offset: options + at + 2,
                    value: u16::from_be_bytes([high, low]),
                });
            }
            _ if length < 2 => return None,
            _ => at += usize::from(length),
        }
    }
    None
}
