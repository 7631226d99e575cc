//! VLAN tags (IEEE 802.1Q, 802.1ad), off the fast path: they are taken off a frame before anything
//! else looks at it, and put back whatever has become of it, so that nothing else knows of them.
//!
//! In XDP tags are bytes of the frame. Before TC the kernel takes the outer one off and keeps it
//! beside the packet, where it stays if the packet is sent on; an inner one is in the bytes still.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_OK, xdp_md};
use aya_ebpf::helpers::{bpf_skb_vlan_pop, bpf_skb_vlan_push, bpf_xdp_adjust_head};
use aya_ebpf::programs::{TcContext, XdpContext};
use core::mem;
use fairlead_dataplane_common::{ClientPlace, DropReason};

use crate::frame::{Frame, OnWire};
use crate::header::{ETHERTYPE_SERVICE_VLAN_BE, ETHERTYPE_VLAN_BE, NETWORK};

/// Offset of a frame's EtherType, and of its first tag if it has one.
const ETHERTYPE: usize = NETWORK - 2;

/// Both addresses of a frame.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Macs([u16; 6]);

// SAFETY: packed to alignment 2, integers only.
unsafe impl OnWire for Macs {}

/// A tag, with the EtherType that announces it.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Tag(u32);

// SAFETY: packed to alignment 2, an integer.
unsafe impl OnWire for Tag {}

const TAG: usize = mem::size_of::<Tag>();

/// The EtherType behind the tags.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Next(u16);

// SAFETY: an integer of alignment 2.
unsafe impl OnWire for Next {}

/// The tags that were taken off a frame: the outer in the low half, and in the high half the inner or
/// zero. In one register, so that a frame without tags pays for a zero.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tags(u64);

impl Tags {
    /// The frame has none.
    pub const NONE: Self = Self(0);

    /// Those of an skb that had `outer` before the one it has.
    #[inline(always)]
    pub fn of_skb(ctx: &TcContext, outer: Outer) -> Self {
        // SAFETY: the context is the program's own.
        let skb = unsafe { &*ctx.skb.skb };
        let beside = if skb.vlan_present != 0 {
            u64::from(word(skb.vlan_proto as u16, skb.vlan_tci as u16))
        } else {
            0
        };
        if outer == Outer::NONE {
            return Self(beside);
        }
        Self(beside << 32 | u64::from(word((outer.0 >> 16) as u16, outer.0 as u16)))
    }

    /// Those that a note says.
    #[inline(always)]
    pub fn of_note(place: &ClientPlace) -> Self {
        let inner = match place.inner_tag {
            0 => 0,
            tag => u64::from(word(ETHERTYPE_VLAN_BE, u16::from_be(tag))),
        };
        Self(inner << 32 | u64::from(place.tag))
    }

    /// As [`ClientPlace::tag`] and [`ClientPlace::inner_tag`].
    #[inline(always)]
    pub fn noted(self) -> (u32, u16) {
        (self.0 as u32, (self.0 >> 48) as u16)
    }

    /// Puts them on an skb that has none.
    #[inline(always)]
    pub fn put_on(self, ctx: &TcContext) -> bool {
        let (outer, inner) = (self.0 as u32, (self.0 >> 32) as u32);
        (inner == 0 || put_one(ctx, inner)) && (outer == 0 || put_one(ctx, outer))
    }
}

/// A tag as it is in a frame: its EtherType, and its control information in this machine's order.
#[inline(always)]
const fn word(ethertype_be: u16, tag: u16) -> u32 {
    ethertype_be as u32 | (tag.to_be() as u32) << 16
}

#[inline(always)]
fn put_one(ctx: &TcContext, tag: u32) -> bool {
    let control = u16::from_be((tag >> 16) as u16);
    // SAFETY: the context is the program's own.
    unsafe { bpf_skb_vlan_push(ctx.skb.skb, tag as u16, control) == 0 }
}

/// Whether an EtherType announces a tag.
#[inline(always)]
pub fn is_tag(ethertype_be: u16) -> bool {
    ethertype_be == ETHERTYPE_VLAN_BE || ethertype_be == ETHERTYPE_SERVICE_VLAN_BE
}

/// Takes up to two tags off a frame that has one. Pointers into the frame are invalid afterwards; a
/// third tag, which nobody uses, is an EtherType that is passed. Off a frame that ends in its tags
/// none is taken.
#[inline(never)]
pub fn take_off(ctx: *mut xdp_md) -> Tags {
    try_take_off(&XdpContext::new(ctx)).unwrap_or(Tags::NONE)
}

#[inline(always)]
fn try_take_off(ctx: &XdpContext) -> Result<Tags, DropReason> {
    let macs: *mut Macs = ctx.header(0)?;
    let outer: *mut Tag = ctx.header(ETHERTYPE)?;
    let next: *mut Next = ctx.header(ETHERTYPE + TAG)?;
    // SAFETY: in bounds, as `header` has checked.
    let (macs, outer, next) = unsafe { (*macs, *outer, *next) };
    let Some(inner) = inner(ctx, next) else {
        let to: *mut Macs = ctx.header(TAG)?;
        // SAFETY: as above.
        unsafe { *to = macs };
        return removed(ctx, TAG, u64::from(outer.0));
    };
    let to: *mut Macs = ctx.header(2 * TAG)?;
    // SAFETY: as above.
    unsafe { *to = macs };
    removed(ctx, 2 * TAG, u64::from(inner.0) << 32 | u64::from(outer.0))
}

/// The second tag, if what follows the first is one and is whole.
#[inline(always)]
fn inner(ctx: &XdpContext, next: Next) -> Option<Tag> {
    if !is_tag(next.0) {
        return None;
    }
    let _behind: *mut Next = ctx.header(ETHERTYPE + 2 * TAG).ok()?;
    let inner: *mut Tag = ctx.header(ETHERTYPE + TAG).ok()?;
    // SAFETY: in bounds, as `header` has checked.
    Some(unsafe { *inner })
}

#[inline(always)]
fn removed(ctx: &XdpContext, bytes: usize, tags: u64) -> Result<Tags, DropReason> {
    // SAFETY: the context is the program's own. Ethernet's 14 bytes are left of what was checked.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, bytes as i32) } != 0 {
        return Err(DropReason::RewriteFailed);
    }
    Ok(Tags(tags))
}

/// Puts tags back between a frame's addresses and its EtherType.
#[inline(never)]
pub fn put_back(ctx: *mut xdp_md, tags: Tags) -> bool {
    try_put_back(&XdpContext::new(ctx), tags).is_ok()
}

#[inline(always)]
fn try_put_back(ctx: &XdpContext, tags: Tags) -> Result<(), DropReason> {
    let (outer, inner) = (tags.0 as u32, (tags.0 >> 32) as u32);
    let macs: *mut Macs = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    let macs = unsafe { *macs };
    let bytes = if inner == 0 { TAG } else { 2 * TAG };
    // SAFETY: the context is the program's own.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(bytes as i32)) } != 0 {
        return Err(DropReason::RewriteFailed);
    }
    let to: *mut Macs = ctx.header(0)?;
    let first: *mut Tag = ctx.header(ETHERTYPE)?;
    // SAFETY: as above.
    unsafe {
        *to = macs;
        *first = Tag(outer);
    }
    if inner != 0 {
        let second: *mut Tag = ctx.header(ETHERTYPE + TAG)?;
        // SAFETY: as above.
        unsafe { *second = Tag(inner) };
    }
    Ok(())
}

/// The outer tag of a packet that had two, as [`push`] takes it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Outer(u64);

impl Outer {
    /// The packet has no tag in its bytes.
    pub const NONE: Self = Self(0);
    /// Above the tag and its EtherType.
    const IS_SOME: u64 = 1 << 32;

    /// As a plain number, which is what global functions take.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The one that [`Self::number`] gave.
    #[inline(always)]
    pub const fn of_number(number: u64) -> Self {
        Self(number)
    }
}

/// Brings the tag in a packet's bytes to where the outer one was, which is returned. Pointers into
/// the packet are invalid afterwards.
#[inline(never)]
pub fn pop(skb: *mut __sk_buff) -> Outer {
    let ctx = TcContext::new(skb);
    // SAFETY: the context is the program's own.
    let (is_beside, ethertype_be, tag) =
        unsafe { ((*skb).vlan_present, (*skb).vlan_proto, (*skb).vlan_tci) };
    let (ethertype_be, tag) = if is_beside != 0 {
        (ethertype_be as u16, tag as u16)
    } else {
        let Ok(first) = ctx.header::<Tag>(ETHERTYPE) else {
            return Outer::NONE;
        };
        // SAFETY: in bounds, as `header` has checked.
        let first = unsafe { *first }.0;
        (first as u16, u16::from_be((first >> 16) as u16))
    };
    // SAFETY: the context is the program's own.
    if unsafe { bpf_skb_vlan_pop(skb) } != 0 {
        return Outer::NONE;
    }
    Outer(Outer::IS_SOME | u64::from(ethertype_be) << 16 | u64::from(tag))
}

/// Puts the outer tag back, unless the packet has lost the inner one too because it is delivered.
#[inline(never)]
pub fn push(skb: *mut __sk_buff, outer: Outer, action: i32) -> bool {
    // SAFETY: the context is the program's own.
    let keeps_tags = action == TC_ACT_OK || unsafe { (*skb).vlan_present } != 0;
    let (ethertype_be, tag) = ((outer.0 >> 16) as u16, outer.0 as u16);
    // SAFETY: as above.
    !keeps_tags || unsafe { bpf_skb_vlan_push(skb, ethertype_be, tag) } == 0
}

/// Takes the tag off a packet that is delivered: its receiver is on no VLAN.
#[inline(always)]
pub fn discard(ctx: &TcContext) -> Result<(), DropReason> {
    let skb = ctx.skb.skb;
    // SAFETY: the context is the program's own.
    if unsafe { (*skb).vlan_present != 0 && bpf_skb_vlan_pop(skb) != 0 } {
        return Err(DropReason::RewriteFailed);
    }
    Ok(())
}
