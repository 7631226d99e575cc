//! Changing a word of a map element that other CPUs change too.
//!
//! `core` has no atomic read-modify-write for this target; the instructions (Linux 5.12) do not need
//! it. Each is atomic and orders nothing else.

use core::arch::asm;

/// Adds to a word and returns what it was.
///
/// # Safety
/// `word` points at a live map element and is aligned to its size.
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u32, added: u32) -> u32 {
    let mut value = added;
    // SAFETY: the caller's promise.
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
    let mut value = value;
    // SAFETY: the caller's promise.
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
