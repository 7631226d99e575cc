//! The largest segment that a SYN announces (RFC 9293 §3.7.1), lowered to what fits the way back: the
//! other end then never sends what would have to be refused as too big. Off the fast path.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::{TcContext, XdpContext};
use fairlead_dataplane_common::{Config, Counter, DropReason, checksum};

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

/// An option's value, at an even or an odd address.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Value([u8; 2]);

// SAFETY: bytes, of alignment 1.
unsafe impl OnWire for Value {}

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
pub fn fitting(config: &Config, family: Family, overhead: usize) -> Option<u16> {
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

#[inline(never)]
fn clamp(ctx: *mut xdp_md, is_v4: bool, limit: u16) -> bool {
    let ctx = &XdpContext::new(ctx);
    let clamped = if is_v4 {
        clamp_frame(ctx, Family::V4, limit)
    } else {
        clamp_frame(ctx, Family::V6, limit)
    };
    clamped.is_ok()
}

/// Lowers the largest segment of a SYN in XDP to what fits the uplink with `overhead` bytes before it.
#[inline(always)]
pub fn clamp_xdp(
    ctx: &XdpContext,
    config: &Config,
    family: Family,
    overhead: usize,
) -> Result<(), DropReason> {
    let Some(limit) = fitting(config, family, overhead) else {
        return Ok(());
    };
    if clamp(ctx.ctx, family == Family::V4, limit) {
        Ok(())
    } else {
        Err(DropReason::RewriteFailed)
    }
}

#[inline(always)]
fn clamp_frame(ctx: &XdpContext, family: Family, limit: u16) -> Result<(), DropReason> {
    let transport = family.transport();
    let Some(found) = first(ctx, transport) else {
        return Ok(());
    };
    if found.value <= limit {
        return Ok(());
    }
    let (old, new) = changed_words(&found, limit);
    let value: *mut Value = ctx.header(found.offset)?;
    let [high, low] = limit.to_be_bytes();
    // SAFETY: in bounds, as `header` has checked.
    unsafe { *value = Value([high, low]) };
    let tcp: *mut Tcp = ctx.header(transport)?;
    // SAFETY: as above.
    unsafe { (*tcp).checksum = checksum::update((*tcp).checksum, old.into(), new.into()) };
    stats::count(Counter::MssClamped);
    Ok(())
}

/// The value before and after, as a checksum takes them: a value at an odd offset stands in the
/// halves of two words, which changes its bytes' places (RFC 1071 §2 B).
#[inline(always)]
fn changed_words(found: &SegmentSize, limit: u16) -> (u16, u16) {
    let (old, new) = (found.value.to_be(), limit.to_be());
    if found.offset.is_multiple_of(2) {
        (old, new)
    } else {
        (old.swap_bytes(), new.swap_bytes())
    }
}

/// Looks at the first option of the TCP header at `transport`: a search is more than the verifier
/// grants a program of XDP, where many ways lead here.
#[inline(always)]
fn first<F: Frame>(frame: &F, transport: usize) -> Option<SegmentSize> {
    let tcp: *mut Tcp = frame.header(transport).ok()?;
    // SAFETY: in bounds, as `header` has checked.
    if unsafe { (*tcp).data_offset } >> 4 <= 5 {
        return None;
    }
    let offset = transport + size_of::<Tcp>();
    let option: *mut TcpOption = frame.header(offset).ok()?;
    // SAFETY: as above.
    let [kind, length, high, low] = unsafe { (*option).0 };
    if kind != SEGMENT_SIZE || length != SEGMENT_SIZE_LENGTH {
        return None;
    }
    Some(SegmentSize {
        offset: offset + 2,
        value: u16::from_be_bytes([high, low]),
    })
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
