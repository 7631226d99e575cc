//! Hash maps, entry by entry and in batches.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;

use super::{Batch, MAP_LOOKUP_BATCH, bpf, bpf_mut};

const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;

/// `BPF_NOEXIST` of linux/bpf.h: what is there already stays.
const NO_EXIST: u64 = 1;

#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Some entries of a map, and the cursor to go on with, if these were not the last.
pub(crate) type Entries<K, V> = (Vec<(K, V)>, Option<u32>);

/// Some entries, about `count` of them, behind those that `cursor` stands for.
pub(crate) fn read_hash<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    cursor: Option<u32>,
    count: usize,
) -> io::Result<Entries<K, V>> {
    let mut room = count;
    loop {
        match try_read_hash(map, cursor, room) {
            // A bucket has more entries than there was room for, however unlikely that is.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => room *= 2,
            other => return other,
        }
    }
}

fn try_read_hash<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    cursor: Option<u32>,
    count: usize,
) -> io::Result<Entries<K, V>> {
    let mut keys: Vec<K> = Vec::with_capacity(count);
    let mut values: Vec<V> = Vec::with_capacity(count);
    let before = cursor.unwrap_or(0);
    let mut next = 0_u32;
    let mut attributes = Batch {
        in_batch: match cursor {
            Some(_) => (&raw const before) as u64,
            None => 0,
        },
        out_batch: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: count as u32,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: the layout is `bpf_attr.batch`; keys and values have room for `count` elements of the
    // map's own sizes (`K` and `V` are the types the map was opened with), a hash map's cursor is a
    // `u32`, and all outlive the call.
    let is_last = match unsafe { bpf_mut(MAP_LOOKUP_BATCH, &mut attributes) } {
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error),
    };
    // SAFETY: the kernel has written that many of each, and any bytes are a valid `Pod`.
    unsafe {
        keys.set_len(attributes.count as usize);
        values.set_len(attributes.count as usize);
    }
    let entries = keys.into_iter().zip(values).collect();
    Ok((entries, (!is_last).then_some(next)))
}

/// The value of `key`, if there is one.
pub(crate) fn look_up<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = std::mem::MaybeUninit::<V>::uninit();
    let mut attributes = Element {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const *key) as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the layout is that of `bpf_attr`'s member for elements; key and value are of the map's
    // own sizes and outlive the call.
    match unsafe { bpf_mut(MAP_LOOKUP_ELEM, &mut attributes) } {
        // SAFETY: the kernel has written the value, and any bytes are a valid `Pod`.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds an entry, unless its key has one.
pub(crate) fn add<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let attributes = Element {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const *key) as u64,
        value: (&raw const *value) as u64,
        flags: NO_EXIST,
    };
    // SAFETY: as above; the kernel only reads both.
    match unsafe { bpf(MAP_UPDATE_ELEM, &attributes) } {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes an entry, if it is there.
pub(crate) fn remove<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let attributes = Element {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const *key) as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: as above; the kernel only reads the key.
    match unsafe { bpf(MAP_DELETE_ELEM, &attributes) } {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
