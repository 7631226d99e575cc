//! The kernel's clocks that the standard library does not show.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::{bpf, bpf_mut};

const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
/// `BPF_PROG_TYPE_XDP`: what it returns is handed back as it is.
const TYPE_XDP: u32 = 6;

/// The resolution of `CLOCK_MONOTONIC_COARSE`.
pub(crate) fn coarse_resolution() -> io::Result<Duration> {
    coarse(libc::clock_getres)
}

/// `CLOCK_MONOTONIC_COARSE`, as `bpf_ktime_get_coarse_ns` gives it.
pub(crate) fn coarse_now() -> io::Result<Duration> {
    coarse(libc::clock_gettime)
}

fn coarse(
    call: unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int,
) -> io::Result<Duration> {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: both calls write one `timespec` there if they succeed.
    if unsafe { call(libc::CLOCK_MONOTONIC_COARSE, time.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded.
    let time = unsafe { time.assume_init() };
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Loads a program of two instructions: call `bpf_jiffies64`, and exit with what it returns.
pub(crate) fn load_jiffies_program() -> io::Result<OwnedFd> {
    /// `BPF_JMP | BPF_CALL`, function 118.
    const CALL_JIFFIES64: u64 = 0x85 | 118 << 32;
    /// `BPF_JMP | BPF_EXIT`.
    const EXIT: u64 = 0x95;
    #[repr(C)]
    struct Attributes {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
    }
    let instructions = [CALL_JIFFIES64, EXIT];
    let license = c"Apache-2.0";
    let attributes = Attributes {
        kind: TYPE_XDP,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"jiffies\0\0\0\0\0\0\0\0\0",
    };
    // SAFETY: the layout is the beginning of `bpf_attr`'s member for loading; instructions and
    // license outlive the call.
    let fd = unsafe { bpf(PROG_LOAD, &attributes) }?;
    // SAFETY: the kernel has just made the descriptor, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Runs it: the low half of `bpf_jiffies64`.
pub(crate) fn run_jiffies_program(program: BorrowedFd<'_>) -> io::Result<u32> {
    #[repr(C)]
    struct Attributes {
        program: u32,
        returned: u32,
        input_size: u32,
        output_size: u32,
        input: u64,
        output: u64,
        repeat: u32,
        duration: u32,
    }
    // The kernel runs no program on less than an Ethernet header.
    let frame = [0_u8; 64];
    let mut attributes = Attributes {
        program: program.as_raw_fd() as u32,
        returned: 0,
        input_size: frame.len() as u32,
        output_size: 0,
        input: frame.as_ptr() as u64,
        output: 0,
        repeat: 1,
        duration: 0,
    };
    // SAFETY: the layout is the beginning of `bpf_attr.test`; the frame outlives the call, and no
    // output is asked for.
    unsafe { bpf_mut(PROG_TEST_RUN, &mut attributes) }?;
    Ok(attributes.returned)
}
