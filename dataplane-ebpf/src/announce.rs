//! The VIPs that this node announces: ARP requests (RFC 826) and neighbour solicitations (RFC 4861
//! §7.2) for them are answered with the uplink's address, and who else claims one is noted for the
//! agent.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_jiffies64, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use core::mem;
use fairlead_dataplane_common::{
    Address, Config, ConflictEntry, Counter, DropReason, FRONTEND_ADDRESS, FRONTEND_ANNOUNCED,
    FrontendKey, UplinkEntry, checksum, protocol,
};

use crate::frame::{Frame, OnWire};
use crate::header::{
    Arp, ETHERTYPE_IPV4_BE, Ethernet, Ipv6, LinkAddress, NETWORK, Neighbour, TRANSPORT_V6,
};
use crate::maps::{CONFLICTS, UPLINKS};
use crate::verdict::{Pack, Packed};
use crate::{lookup, stats};

/// The hop limit of everything in neighbour discovery: nothing from beyond the link has it left.
const HOP_LIMIT: u8 = 255;
/// Options are read in units of eight bytes, up to this many: what is longer is left to the stack.
const OPTION_UNITS_MAX: usize = 8;
const UNIT: usize = 8;
const NEIGHBOUR_UNITS: usize = mem::size_of::<Neighbour>() / UNIT;

/// `ff02::1`, all nodes of the link.
const ALL_NODES: [u32; 4] = [0xff02_0000_u32.to_be(), 0, 0, 1_u32.to_be()];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// The first three words of `ff02::1:ff00:0/104`, to which solicitations go (RFC 4291 §2.7.1).
const SOLICITED_NODE: [u32; 3] = [0xff02_0000_u32.to_be(), 0, 1_u32.to_be()];

/// Eight bytes, as neighbour discovery counts.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Unit([u16; 4]);

// SAFETY: packed to alignment 2, integers only.
unsafe impl OnWire for Unit {}

/// Answers an ARP request for a VIP; others, and replies, pass.
#[inline(never)]
#[unsafe(export_name = "announce_arp")]
pub extern "C" fn arp(ctx: *mut xdp_md) -> Packed {
    try_arp(&XdpContext::new(ctx)).pack()
}

#[inline(always)]
fn try_arp(ctx: &XdpContext) -> Result<u32, DropReason> {
    let Ok(arp) = ctx.header::<Arp>(NETWORK) else {
        return Ok(XDP_PASS);
    };
    // SAFETY: in bounds, as `header` has checked, and any bytes are an `Arp`.
    let request = unsafe { *arp };
    if request.hardware_be != Arp::HARDWARE_BE
        || request.protocol_be != ETHERTYPE_IPV4_BE
        || request.lengths != Arp::LENGTHS
    {
        return Ok(XDP_PASS);
    }
    let config = lookup::config()?;
    let Some(uplink) = uplink(ctx) else {
        return Ok(XDP_PASS);
    };
    if request.sender_mac == uplink.mac {
        // Of our own, come back.
        return Ok(XDP_PASS);
    }
    // Whoever sends in the name of a VIP has it, or is about to (RFC 5227 §2.4).
    let sender = Address::from_v4_word(request.sender);
    if is_announced(config, sender) {
        note_conflict(sender, request.sender_mac);
        return Ok(XDP_PASS);
    }
    if request.operation_be != Arp::REQUEST_BE
        || !is_announced(config, Address::from_v4_word(request.target))
    {
        return Ok(XDP_PASS);
    }
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: as above.
    unsafe {
        Ethernet::readdress(ethernet, request.sender_mac, uplink.mac);
        *arp = Arp {
            operation_be: Arp::REPLY_BE,
            sender_mac: uplink.mac,
            sender: request.target,
            target_mac: request.sender_mac,
            target: request.sender,
            ..request
        };
    }
    stats::count(Counter::NeighbourAnswered);
    Ok(XDP_TX)
}

/// No action of XDP but of [`discovery`]: the frame is a neighbour solicitation to [`advertise`] for.
pub const ADVERTISE: u32 = u32::MAX;

/// Tells a neighbour solicitation for a VIP, which is to be answered, from all else of neighbour
/// discovery, which passes.
#[inline(never)]
#[unsafe(export_name = "announce_discovery")]
pub extern "C" fn discovery(ctx: *mut xdp_md) -> Packed {
    try_discovery(&XdpContext::new(ctx)).pack()
}

#[inline(always)]
fn try_discovery(ctx: &XdpContext) -> Result<u32, DropReason> {
    let ip: *mut Ipv6 = ctx.header(NETWORK)?;
    let Ok(neighbour) = ctx.header::<Neighbour>(TRANSPORT_V6) else {
        return Ok(XDP_PASS);
    };
    // SAFETY: in bounds, as `header` has checked, and any bytes are headers.
    let (ip, neighbour, words) = unsafe { (*ip, *neighbour, Neighbour::target(neighbour)) };
    let config = lookup::config()?;
    let Some(uplink) = uplink(ctx) else {
        return Ok(XDP_PASS);
    };
    let target = Address { words };
    let is_ours =
        neighbour.kind == Neighbour::SOLICITATION || neighbour.kind == Neighbour::ADVERTISEMENT;
    if !is_ours || ip.hop_limit != HOP_LIMIT || !is_announced(config, target) {
        return Ok(XDP_PASS);
    }
    let Some(link_address) = options(ctx, &ip, neighbour.kind) else {
        return Ok(XDP_PASS);
    };
    if neighbour.kind == Neighbour::ADVERTISEMENT {
        if link_address != [0; 6] && link_address != uplink.mac {
            note_conflict(target, link_address);
        }
        return Ok(XDP_PASS);
    }
    let (source, destination) = (ip.source, ip.destination);
    // RFC 4861 §7.1.1: who has no address yet (RFC 4862 §5.4.2) asks the group, and does not say
    // where it is.
    if source == [0; 4] {
        let [first, second, third, _] = destination;
        if [first, second, third] != SOLICITED_NODE || link_address != [0; 6] {
            return Ok(XDP_PASS);
        }
    }
    Ok(ADVERTISE)
}

/// The link-layer address that an otherwise valid message (RFC 4861 §7.1) shows, zero if it shows
/// none. Nothing if the message is not valid, or longer than any is in practice: the stack decides.
#[inline(always)]
fn options(ctx: &XdpContext, ip: &Ipv6, kind: u8) -> Option<[u8; 6]> {
    let wanted = if kind == Neighbour::SOLICITATION {
        LinkAddress::SOURCE
    } else {
        LinkAddress::TARGET
    };
    let length = usize::from(u16::from_be(ip.payload_length_be));
    let units = length / UNIT;
    if length % UNIT != 0
        || !(NEIGHBOUR_UNITS..=NEIGHBOUR_UNITS + OPTION_UNITS_MAX).contains(&units)
    {
        return None;
    }
    let (source, destination) = (ip.source, ip.destination);
    let mut sum = Address { words: source }.sum()
        + Address { words: destination }.sum()
        + u64::from((length as u32).to_be())
        + u64::from(u32::from(protocol::ICMPV6).to_be());
    let mut link_address = [0; 6];
    // Units that belong to the option before.
    let mut inside = NEIGHBOUR_UNITS;
    for index in 0..NEIGHBOUR_UNITS + OPTION_UNITS_MAX {
        if index >= units {
            break;
        }
        let unit: *mut Unit = ctx.header(TRANSPORT_V6 + index * UNIT).ok()?;
        // SAFETY: in bounds, as `header` has checked.
        let words = unsafe { (*unit).0 };
        for word in words {
            sum += u64::from(word);
        }
        if inside == 0 {
            let [kind, length] = words[0].to_ne_bytes();
            if length == 0 {
                return None;
            }
            if kind == wanted && length == 1 {
                let [a, b] = words[1].to_ne_bytes();
                let [c, d] = words[2].to_ne_bytes();
                let [e, f] = words[3].to_ne_bytes();
                link_address = [a, b, c, d, e, f];
            }
            inside = usize::from(length);
        }
        inside -= 1;
    }
    (inside == 0 && checksum::fold(sum) == u16::MAX).then_some(link_address)
}

/// Turns a solicitation into the advertisement that answers it. It is a function of its own, which reads
/// the solicitation again, as the stack has no room for both.
#[inline(never)]
#[unsafe(export_name = "announce_advertise")]
pub extern "C" fn advertise(ctx: *mut xdp_md) -> Packed {
    try_advertise(&XdpContext::new(ctx)).pack()
}

#[inline(always)]
fn try_advertise(ctx: &XdpContext) -> Result<u32, DropReason> {
    const LENGTH: usize = mem::size_of::<Neighbour>() + mem::size_of::<LinkAddress>();
    const FRAME: i32 = (TRANSPORT_V6 + LENGTH) as i32;
    let Some(uplink) = uplink(ctx) else {
        return Ok(XDP_PASS);
    };
    // SAFETY: the context is the program's own.
    if unsafe { bpf_xdp_adjust_tail(ctx.ctx, FRAME - ctx.length() as i32) } != 0 {
        return Err(DropReason::RewriteFailed);
    }
    let ethernet: *mut Ethernet = ctx.header(0)?;
    let ip: *mut Ipv6 = ctx.header(NETWORK)?;
    let message: *mut Neighbour = ctx.header(TRANSPORT_V6)?;
    let option: *mut LinkAddress = ctx.header(TRANSPORT_V6 + mem::size_of::<Neighbour>())?;
    // SAFETY: in bounds, as `header` has checked.
    let (asker, (source, _), target) = unsafe {
        (
            (*ethernet).source,
            Ipv6::addresses(ip),
            Neighbour::target(message),
        )
    };
    let target = Address { words: target };
    // RFC 4861 §7.2.4: who has no address is answered by way of all nodes.
    let (destination, mac, flags) = if source == [0; 4] {
        (ALL_NODES, ALL_NODES_MAC, Neighbour::OVERRIDE)
    } else {
        let flags = Neighbour::SOLICITED | Neighbour::OVERRIDE;
        (source, asker, flags)
    };
    let mut advertisement = Neighbour {
        kind: Neighbour::ADVERTISEMENT,
        code: 0,
        checksum: 0,
        flags,
        reserved: [0; 3],
        target: target.words,
    };
    let link_address = LinkAddress {
        kind: LinkAddress::TARGET,
        length: 1,
        mac: uplink.mac,
    };
    let [a, b, c, d, e, f] = uplink.mac;
    let words = [
        [Neighbour::ADVERTISEMENT, 0],
        [flags, 0],
        [LinkAddress::TARGET, 1],
        [a, b],
        [c, d],
        [e, f],
    ];
    // The target is both the source and in the message.
    let mut sum = 2 * target.sum()
        + Address { words: destination }.sum()
        + u64::from((LENGTH as u32).to_be())
        + u64::from(u32::from(protocol::ICMPV6).to_be());
    for word in words {
        sum += u64::from(u16::from_ne_bytes(word));
    }
    advertisement.checksum = !checksum::fold(sum);
    // SAFETY: as above.
    unsafe {
        Ethernet::readdress(ethernet, mac, uplink.mac);
        *ip = Ipv6 {
            version_class_label_be: (6_u32 << 28).to_be(),
            payload_length_be: (LENGTH as u16).to_be(),
            next_header: protocol::ICMPV6,
            hop_limit: HOP_LIMIT,
            source: target.words,
            destination,
        };
        *message = advertisement;
        *option = link_address;
    }
    stats::count(Counter::NeighbourAnswered);
    Ok(XDP_TX)
}

/// Whether `address` is a VIP that this node announces.
#[inline(always)]
fn is_announced(config: &Config, address: Address) -> bool {
    const BOTH: u32 = FRONTEND_ADDRESS | FRONTEND_ANNOUNCED;
    // The segment of an uplink is the default network's.
    lookup::exact(config, &FrontendKey::of_address(0, address))
        .is_some_and(|entry| entry.flags & BOTH == BOTH)
}

/// The uplink that a frame came in by.
#[inline(always)]
fn uplink(ctx: &XdpContext) -> Option<&'static UplinkEntry> {
    // SAFETY: the context is the program's own.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    // SAFETY: the agent never changes an entry in place, and the kernel keeps a removed one readable
    // until the program has ended.
    unsafe { UPLINKS.get(&ifindex) }
}

/// Notes that somebody else has announced a VIP of this node's.
#[inline(always)]
fn note_conflict(vip: Address, mac: [u8; 6]) {
    let entry = ConflictEntry {
        // SAFETY: takes nothing.
        seen_jiffies: unsafe { bpf_jiffies64() },
        mac,
        padding: 0,
    };
    // An LRU map makes room; should it not, the next announcement is noted.
    let _ = CONFLICTS.insert(&vip, &entry, u64::from(BPF_ANY));
}
