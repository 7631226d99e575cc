//! Changing a word of a map element that other CPUs change too.
//!
//! `core` has no atomic read-modify-write for BPF; the instructions (Linux 5.12) do not need it. Each
//! is atomic and orders nothing else. The lints run for the machine that builds, which has one in
//! `core` and no such registers.

#[cfg(target_arch = "bpf")]
use core::arch::asm;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Adds to a word and returns what it was.
///
/// # Safety
/// `word` points at a live map element and is aligned to its size.
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u32, added: u32) -> u32 {
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    return unsafe { AtomicU32::from_ptr(word).fetch_add(added, Ordering::Relaxed) };
    #[cfg(target_arch = "bpf")]
    fetch_add_bpf(word, added)
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
fn fetch_add_bpf(word: *mut u32, mut value: u32) -> u32 {
    // SAFETY: the promise of the caller of `fetch_add`.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u32 *)({word} + 0), {value})",
            value = inout(wreg) value,
            word = in(reg) word,
            options(nostack),
        );
    }
    value
}

/// Puts a value into a word and returns what it was.
///
/// # Safety
/// `word` points at a live map element and is aligned to its size.
#[inline(always)]
pub unsafe fn swap(word: *mut u64, value: u64) -> u64 {
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    return unsafe { AtomicU64::from_ptr(word).swap(value, Ordering::Relaxed) };
    #[cfg(target_arch = "bpf")]
    swap_bpf(word, value)
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
fn swap_bpf(word: *mut u64, mut value: u64) -> u64 {
    // SAFETY: the promise of the caller of `swap`.
    unsafe {
        asm!(
            "{value} = xchg_64({word} + 0, {value})",
            value = inout(reg) value,
            word = in(reg) word,
            options(nostack),
        );
    }
    value
}
