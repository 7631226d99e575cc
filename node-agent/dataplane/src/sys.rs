//! The `bpf(2)` commands that aya has no call for, or not for every kind of link: links made,
//! replaced and found again uniformly, arrays written and hash maps read in batches, and clocks.

#![allow(
    unsafe_code,
    reason = "bpf(2) takes pointers; this module is where they are made"
)]

mod clock;
mod hash_map;

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

use aya::Pod;

pub(crate) use clock::{coarse_now, coarse_resolution, load_jiffies_program, run_jiffies_program};
pub(crate) use hash_map::{add, look_up, read_hash, remove};

/// `BPF_CGROUP_INET4_CONNECT` of linux/bpf.h.
pub(crate) const CGROUP_INET4_CONNECT: u32 = 10;
/// `BPF_CGROUP_INET6_CONNECT`.
pub(crate) const CGROUP_INET6_CONNECT: u32 = 11;
/// `BPF_CGROUP_UDP4_SENDMSG`.
pub(crate) const CGROUP_UDP4_SENDMSG: u32 = 14;
/// `BPF_CGROUP_UDP6_SENDMSG`.
pub(crate) const CGROUP_UDP6_SENDMSG: u32 = 15;
/// `BPF_CGROUP_UDP4_RECVMSG`.
pub(crate) const CGROUP_UDP4_RECVMSG: u32 = 19;
/// `BPF_CGROUP_UDP6_RECVMSG`.
pub(crate) const CGROUP_UDP6_RECVMSG: u32 = 20;
/// `BPF_CGROUP_INET4_GETPEERNAME`.
pub(crate) const CGROUP_INET4_GETPEERNAME: u32 = 29;
/// `BPF_CGROUP_INET6_GETPEERNAME`.
pub(crate) const CGROUP_INET6_GETPEERNAME: u32 = 30;
/// `BPF_XDP`.
pub(crate) const XDP: u32 = 37;
/// `BPF_TCX_INGRESS`.
pub(crate) const TCX_INGRESS: u32 = 46;
/// `BPF_TCX_EGRESS`.
pub(crate) const TCX_EGRESS: u32 = 47;

/// `XDP_FLAGS_SKB_MODE` of linux/if_link.h.
pub(crate) const XDP_GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
pub(crate) const XDP_DRIVER: u32 = 1 << 2;

const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;

/// Where a link attaches its program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// A network interface, by index.
    Interface(u32),
    /// A cgroup directory.
    Cgroup(BorrowedFd<'a>),
}

impl Target<'_> {
    fn number(self) -> u32 {
        match self {
            Self::Interface(ifindex) => ifindex,
            // A descriptor is never negative.
            Self::Cgroup(fd) => fd.as_raw_fd() as u32,
        }
    }
}

/// Attaches a program. The link lives as long as the descriptor or a pin of it.
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    target: Target<'_>,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        // The widest of the kinds used here, TCX: relative_fd, padding, expected_revision.
        options: [u64; 2],
    }
    let attributes = Attributes {
        program: program.as_raw_fd() as u32,
        target: target.number(),
        attach_type,
        flags,
        options: [0; 2],
    };
    // SAFETY: the layout is `bpf_attr.link_create`, without pointers.
    let fd = unsafe { bpf(LINK_CREATE, &attributes) }?;
    // SAFETY: the kernel has just made the descriptor, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Puts another program in the place of a link's own, between one packet and the next.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let attributes = Attributes {
        link: link.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        flags: 0,
        old_program: 0,
    };
    // SAFETY: the layout is `bpf_attr.link_update`, without pointers.
    unsafe { bpf(LINK_UPDATE, &attributes) }.map(drop)
}

/// The ids of the programs attached at a hook.
pub(crate) fn attached(target: Target<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    /// More than a hook of ours can have: the kernel allows 64.
    const PROGRAMS_MAX: usize = 64;
    #[repr(C)]
    struct Attributes {
        target: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
        // prog_attach_flags, link_ids, link_attach_flags, revision: not asked for.
        rest: [u64; 4],
    }
    let mut ids = vec![0_u32; PROGRAMS_MAX];
    let mut attributes = Attributes {
        target: target.number(),
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: PROGRAMS_MAX as u32,
        padding: 0,
        rest: [0; 4],
    };
    // SAFETY: the layout is `bpf_attr.query`; `ids` has room for `count` elements and outlives the
    // call, and the kernel writes the count back into the attributes.
    unsafe { bpf_mut(PROG_QUERY, &mut attributes) }?;
    ids.truncate(attributes.count as usize);
    Ok(ids)
}

/// Asks the kernel about an object. `T` is the beginning of the info of its kind.
///
/// # Safety
/// `T` is made of integers only: the kernel writes all of it.
unsafe fn info<T: Default>(object: BorrowedFd<'_>) -> io::Result<T> {
    #[repr(C)]
    struct Attributes {
        object: u32,
        length: u32,
        info: u64,
    }
    let mut found = T::default();
    let mut attributes = Attributes {
        object: object.as_raw_fd() as u32,
        length: mem::size_of::<T>() as u32,
        info: (&raw mut found) as u64,
    };
    // SAFETY: the layout is `bpf_attr.info`; the kernel writes `length` bytes to `found`, which
    // outlives the call.
    unsafe { bpf_mut(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(found)
}

/// The tag of a program: a hash of its instructions, without which maps they name.
pub(crate) fn program_tag(program: BorrowedFd<'_>) -> io::Result<[u8; 8]> {
    /// `struct bpf_prog_info`, its beginning.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        tag: [u8; 8],
    }
    // SAFETY: integers only.
    Ok(unsafe { info::<Info>(program) }?.tag)
}

/// What a link is: `struct bpf_link_info`, its beginning.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinkInfo {
    kind: u32,
    /// Of the link.
    pub(crate) id: u32,
    /// The id of the program it has attached.
    pub(crate) program: u32,
}

/// Asks what a link is.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: integers only.
    unsafe { info(link) }
}

/// The program that a link has attached.
pub(crate) fn linked_program(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        id: u32,
        next: u32,
        flags: u32,
    }
    let id = link_info(link)?.program;
    let attributes = Attributes {
        id,
        next: 0,
        flags: 0,
    };
    // SAFETY: the layout is `bpf_attr`'s of BPF_*_GET_FD_BY_ID, without pointers.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &attributes) }?;
    // SAFETY: the kernel has just made the descriptor, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins an object at a path of a bpffs.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Pin {
        path: path.as_ptr() as u64,
        fd: object.as_raw_fd() as u32,
        flags: 0,
    };
    // SAFETY: the layout is `bpf_attr`'s of BPF_OBJ_*; the path outlives the call.
    unsafe { bpf(OBJ_PIN, &attributes) }.map(drop)
}

/// Opens a pinned object, or nothing if there is none.
pub(crate) fn pinned(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Pin {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: as in `pin`.
    match unsafe { bpf(OBJ_GET, &attributes) } {
        // SAFETY: the kernel has just made the descriptor, nobody else knows it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Writes `values` to the elements of an array from `first` on.
pub(crate) fn write_array<V: Pod>(map: BorrowedFd<'_>, first: u32, values: &[V]) -> io::Result<()> {
    /// Elements of one call: keeps the kernel from holding the CPU for long.
    const BATCH: usize = 1 << 14;
    // The kernel steps through values by their size rounded up to eight bytes for per-CPU maps
    // only; a plain array's are as they are in memory.
    let mut first = first;
    for chunk in values.chunks(BATCH) {
        let keys: Vec<u32> = (first..).take(chunk.len()).collect();
        let mut attributes = Batch {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: chunk.as_ptr() as u64,
            count: chunk.len() as u32,
            map: map.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the layout is `bpf_attr.batch`; keys and values have `count` elements each, of
        // the map's own sizes (`V` is the type the map was opened with), and outlive the call.
        unsafe { bpf_mut(MAP_UPDATE_BATCH, &mut attributes) }?;
        first += chunk.len() as u32;
    }
    Ok(())
}

/// Reads `count` elements of an array from `first` on; fewer if the array ends before.
pub(crate) fn read_array<V: Pod>(
    map: BorrowedFd<'_>,
    first: u32,
    count: usize,
) -> io::Result<Vec<V>> {
    read_elements(map, first, count, 1)
}

/// Elements of a per-CPU array.
pub(crate) struct PerCpu<V> {
    values: Vec<V>,
    cpus: usize,
}

impl<V> PerCpu<V> {
    /// What the element at `index` is on each CPU; nothing behind the array's end.
    pub(crate) fn of(&self, index: usize) -> &[V] {
        let first = index * self.cpus;
        self.values.get(first..first + self.cpus).unwrap_or(&[])
    }
}

/// Reads `count` elements of a per-CPU array from `first` on.
pub(crate) fn read_per_cpu<V: Pod>(
    map: BorrowedFd<'_>,
    first: u32,
    count: usize,
) -> io::Result<PerCpu<V>> {
    const {
        assert!(
            mem::size_of::<V>().is_multiple_of(8),
            "the kernel rounds each CPU's value up to eight bytes"
        );
    }
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    let values = read_elements(map, first, count, cpus)?;
    Ok(PerCpu { values, cpus })
}

/// Reads `count` elements, each of `width` values, of an array from `first` on.
fn read_elements<V: Pod>(
    map: BorrowedFd<'_>,
    first: u32,
    count: usize,
    width: usize,
) -> io::Result<Vec<V>> {
    let mut keys = vec![0_u32; count];
    let mut values: Vec<V> = Vec::with_capacity(count * width);
    // The kernel continues behind the key it is given, and starts anew without one.
    let before = first.wrapping_sub(1);
    let mut next = 0_u32;
    let mut attributes = Batch {
        in_batch: if first == 0 {
            0
        } else {
            (&raw const before) as u64
        },
        out_batch: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: count as u32,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    if count == 0 {
        return Ok(values);
    }
    // SAFETY: the layout is `bpf_attr.batch`; keys and values have room for `count` elements of the
    // map's own sizes and outlive the call, as do the two cursors.
    match unsafe { bpf_mut(MAP_LOOKUP_BATCH, &mut attributes) } {
        Ok(_) => {}
        // The end of the map was reached; what was read until there counts.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // SAFETY: the kernel has written `count` values, each a valid `V` since `V: Pod`.
    unsafe { values.set_len(attributes.count as usize * width) };
    Ok(values)
}

/// Elements of an array of `u32`, as they lie in memory: the kernel rounds them up to eight bytes.
const ELEMENT_SIZE: usize = 8;

/// The memory of some elements of an array that was made with `BPF_F_MMAPABLE`.
struct Window {
    memory: *mut libc::c_void,
    size: usize,
    /// Bytes of the first page that come before the first element.
    skip: usize,
    count: usize,
}

impl Window {
    /// Maps `count` elements from `first` on. They have to be in the array.
    fn open(map: BorrowedFd<'_>, first: u32, count: usize) -> io::Result<Self> {
        const PAGE: usize = 4096;
        let begin = first as usize * ELEMENT_SIZE;
        let skip = begin % PAGE;
        let size = (skip + count * ELEMENT_SIZE).next_multiple_of(PAGE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                (begin - skip) as libc::off_t,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            memory,
            size,
            skip,
            count,
        })
    }

    fn elements(&self) -> impl Iterator<Item = &AtomicU32> {
        (0..self.count).map(|index| {
            // SAFETY: `skip + count * ELEMENT_SIZE` bytes are mapped for as long as `self` lives;
            // every element is aligned to eight bytes, and others change it atomically at most.
            unsafe {
                let element = self.memory.byte_add(self.skip + index * ELEMENT_SIZE);
                AtomicU32::from_ptr(element.cast())
            }
        })
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no reference into it outlives it.
        unsafe { libc::munmap(self.memory, self.size) };
    }
}

/// Writes `values` to the memory of an array from `first` on.
pub(crate) fn write_mapped(map: BorrowedFd<'_>, first: u32, values: &[u32]) -> io::Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    let window = Window::open(map, first, values.len())?;
    for (element, value) in window.elements().zip(values) {
        element.store(*value, Ordering::Relaxed);
    }
    // Whoever sees what is written next, the entry that names these elements, sees them too.
    fence(Ordering::Release);
    Ok(())
}

/// Reads `count` elements of the memory of an array from `first` on.
pub(crate) fn read_mapped(map: BorrowedFd<'_>, first: u32, count: usize) -> io::Result<Vec<u32>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let window = Window::open(map, first, count)?;
    let values = window
        .elements()
        .map(|element| element.load(Ordering::Relaxed));
    Ok(values.collect())
}

/// Waits until every program that runs now has ended, on all CPUs.
pub(crate) fn wait_for_programs() {
    /// As long as it may take where the kernel has no call for it: programs run for microseconds.
    const LONG_ENOUGH: Duration = Duration::from_millis(20);
    // Programs run inside RCU read sections, and this command waits for a grace period
    // (kernel/sched/membarrier.c: `synchronize_rcu`). Kernels with `nohz_full` refuse it.
    // SAFETY: the command takes no pointer.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 {
        std::thread::sleep(LONG_ENOUGH);
    }
}

/// # Safety
/// `attributes` has the layout of `command`'s member of `bpf_attr`, and its pointers are valid.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the caller's promise; the kernel does not write through the pointer.
    unsafe {
        call(
            command,
            (&raw const *attributes).cast(),
            mem::size_of::<T>(),
        )
    }
}

/// # Safety
/// As [`bpf`]; the kernel writes results back into `attributes`.
unsafe fn bpf_mut<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller's promise.
    unsafe {
        call(
            command,
            (&raw mut *attributes).cast_const().cast(),
            mem::size_of::<T>(),
        )
    }
}

/// # Safety
/// As [`bpf`].
unsafe fn call(
    command: libc::c_long,
    attributes: *const libc::c_void,
    size: usize,
) -> io::Result<libc::c_long> {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
