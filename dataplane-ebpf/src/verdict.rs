//! How programs end: the one exit that counts what is dropped, and keeps a sample of it.

use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::bindings::{__sk_buff, BPF_ANY, BPF_NOEXIST, TC_ACT_SHOT, xdp_md};
use aya_ebpf::helpers::bpf_jiffies64;
use aya_ebpf::programs::{TcContext, XdpContext};
use core::mem;
use fairlead_dataplane_common::{DropReason, DropSample, DropSampleKey, ServiceDropKey};

use crate::atomic;
use crate::frame::Frame;
use crate::maps::{DROP_SAMPLES, DROPS, SERVICE_DROPS, SERVICE_STATS};

/// Lets the operation on a socket proceed.
pub const SOCKET_PROCEED: i32 = 1;
/// Refuses it; the caller has set the error.
const SOCKET_REFUSE: i32 = 0;

/// Why something is dropped, and whose it was.
#[derive(Clone, Copy)]
pub struct Refusal {
    reason: DropReason,
    /// Service slot and one, 0 if it was not known yet.
    service: u32,
}

impl Refusal {
    /// Of what was for the service in `slot`.
    #[inline(always)]
    pub fn of_service(reason: DropReason, slot: u32) -> Self {
        Self {
            reason,
            service: slot + 1,
        }
    }
}

impl From<DropReason> for Refusal {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self { reason, service: 0 }
    }
}

/// A result in one register: what a subprogram returns.
///
/// Subprograms that take the context, and numbers, are global functions: the verifier looks at each
/// once, for any arguments, and not again for every way to each of its calls. It takes them only if
/// they return a plain number.
pub type Packed = u64;

/// Set in a [`Packed`] that holds a reason, below the service.
const IS_REASON: u64 = 1 << 32;
/// Where the service stands.
const SERVICE_SHIFT: u32 = 33;

/// A result that a subprogram returns.
pub trait Pack {
    /// In one register.
    fn pack(self) -> Packed;
}

impl Pack for Result<u32, Refusal> {
    #[inline(always)]
    fn pack(self) -> Packed {
        match self {
            Ok(value) => value as u64,
            Err(Refusal { reason, service }) => {
                (service as u64) << SERVICE_SHIFT | IS_REASON | reason as u64
            }
        }
    }
}

impl Pack for Result<i32, Refusal> {
    #[inline(always)]
    fn pack(self) -> Packed {
        self.map(|value| value as u32).pack()
    }
}

impl Pack for Result<u32, DropReason> {
    #[inline(always)]
    fn pack(self) -> Packed {
        self.map_err(Refusal::from).pack()
    }
}

impl Pack for Result<i32, DropReason> {
    #[inline(always)]
    fn pack(self) -> Packed {
        self.map(|value| value as u32).pack()
    }
}

/// What a subprogram returned.
pub trait Unpack: Sized {
    /// The result again, with the service that the packet was for.
    fn unpack_refusal(self) -> Result<u32, Refusal>;

    /// The result again.
    #[inline(always)]
    fn unpack(self) -> Result<u32, DropReason> {
        self.unpack_refusal().map_err(|refusal| refusal.reason)
    }

    /// The result again, as programs for skbs have it.
    #[inline(always)]
    fn unpack_skb(self) -> Result<i32, DropReason> {
        self.unpack().map(|value| value as i32)
    }
}

impl Unpack for Packed {
    #[inline(always)]
    fn unpack_refusal(self) -> Result<u32, Refusal> {
        let value = self as u32;
        if self & IS_REASON == 0 {
            return Ok(value);
        }
        Err(Refusal {
            // SAFETY: made of a `DropReason`, by `pack`.
            reason: unsafe { mem::transmute::<u32, DropReason>(value) },
            service: (self >> SERVICE_SHIFT) as u32,
        })
    }
}

/// The XDP action that `result` asks for.
#[inline(always)]
pub fn of_xdp(ctx: &XdpContext, result: Result<u32, Refusal>) -> u32 {
    match result {
        Ok(action) => action,
        Err(Refusal { reason, service }) => drop_xdp(ctx.ctx, reason as u32, service),
    }
}

/// The TC action that `result` asks for.
#[inline(always)]
pub fn of_skb(ctx: &TcContext, result: Result<i32, Refusal>) -> i32 {
    match result {
        Ok(action) => action,
        Err(Refusal { reason, service }) => drop_skb(ctx.skb.skb, reason as u32, service),
    }
}

/// What becomes of the operation on a socket.
#[inline(always)]
pub fn of_socket(result: Result<(), Refusal>) -> i32 {
    match result {
        Ok(()) => SOCKET_PROCEED,
        Err(Refusal { reason, service }) => {
            count(reason as u32, service, 0);
            SOCKET_REFUSE
        }
    }
}

/// Counts a frame that is dropped and keeps a sample of it. Not inlined: programs drop in many places.
#[inline(never)]
#[unsafe(export_name = "verdict_drop_xdp")]
extern "C" fn drop_xdp(ctx: *mut xdp_md, reason: u32, service: u32) -> u32 {
    let frame = XdpContext::new(ctx);
    count(reason, service, frame.length());
    // SAFETY: the context is the program's own.
    sample(&frame, unsafe { (*ctx).ingress_ifindex }, reason, service);
    XDP_DROP
}

/// The same for an skb.
#[inline(never)]
#[unsafe(export_name = "verdict_drop_skb")]
extern "C" fn drop_skb(ctx: *mut __sk_buff, reason: u32, service: u32) -> i32 {
    let frame = TcContext::new(ctx);
    count(reason, service, frame.length());
    // SAFETY: the context is the program's own.
    sample(&frame, unsafe { (*ctx).ifindex }, reason, service);
    TC_ACT_SHOT
}

#[inline(always)]
fn count(reason: u32, service: u32, bytes: u32) {
    if let Some(drops) = DROPS.get_ptr_mut(reason) {
        // SAFETY: the element is this CPU's own, and programs of one CPU do not interleave here.
        unsafe {
            (*drops).packets += 1;
            (*drops).bytes += u64::from(bytes);
        }
    }
    if service == 0 {
        return;
    }
    let service = service - 1;
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(service) {
        // SAFETY: as above.
        unsafe { (*stats).drops += 1 }
    }
    let key = ServiceDropKey { service, reason };
    if let Some(drops) = SERVICE_DROPS.get_ptr_mut(&key) {
        // SAFETY: as above.
        unsafe { *drops += 1 }
    } else {
        // Where there is no room, the drop is counted by service and by reason, but not by both.
        let _ = SERVICE_DROPS.insert(&key, &1, u64::from(BPF_ANY));
    }
}

/// Keeps the beginning of a frame, at most once a jiffy for a service and a reason.
#[inline(always)]
fn sample<F: Frame>(frame: &F, ifindex: u32, reason: u32, service: u32) {
    let key = DropSampleKey { service, reason };
    let Some(sample) = sample_of(&key) else {
        return;
    };
    // SAFETY: takes nothing.
    let now = unsafe { bpf_jiffies64() };
    // SAFETY: a word of a live map element, aligned as its struct is.
    if unsafe { atomic::swap(&raw mut (*sample).seen_jiffies, now) } == now {
        return;
    }
    // SAFETY: a live map element, which nobody else writes in this jiffy.
    let sample = unsafe { &mut *sample };
    sample.length = frame.length();
    sample.ifindex = ifindex;
    sample.captured = frame.load(&mut sample.bytes);
}

/// Where the sample of a service and a reason is kept.
#[inline(always)]
fn sample_of(key: &DropSampleKey) -> Option<*mut DropSample> {
    DROP_SAMPLES.get_ptr_mut(key).or_else(|| {
        // An LRU map makes room; should it not, or another CPU be faster, the lookup tells.
        let _ = DROP_SAMPLES.insert(key, &DropSample::NONE, u64::from(BPF_NOEXIST));
        DROP_SAMPLES.get_ptr_mut(key)
    })
}
