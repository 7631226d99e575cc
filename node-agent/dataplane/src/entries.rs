//! A hash map of the kernel, gone through in batches by a descriptor of its own: it takes nobody's
//! lock, and programs go on using the map.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use aya::Pod;

use crate::sys;

/// Entries that one call reads: keeps each call short.
const BATCH: usize = 4_096;

/// See the [module](self).
pub struct Entries<K, V> {
    fd: Arc<OwnedFd>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Entries<K, V> {
    fn clone(&self) -> Self {
        Self {
            fd: Arc::clone(&self.fd),
            types: PhantomData,
        }
    }
}

impl<K, V> fmt::Debug for Entries<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").finish_non_exhaustive()
    }
}

impl<K: Pod, V: Pod> Entries<K, V> {
    /// Of the map behind `fd`, whose keys and values are of these types.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            fd: Arc::new(fd.try_clone_to_owned()?),
            types: PhantomData,
        })
    }

    /// Shows every entry to `visit`, batch by batch. What comes or goes meanwhile is seen or not.
    pub fn for_each_batch(&self, mut visit: impl FnMut(&[(K, V)])) -> io::Result<()> {
        let mut cursor = None;
        loop {
            let (entries, next) = sys::read_hash(self.fd.as_fd(), cursor, BATCH)?;
            visit(&entries);
            match next {
                Some(_) => cursor = next,
                None => return Ok(()),
            }
        }
    }

    /// The value of `key`, if there is one.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        sys::look_up(self.fd.as_fd(), key)
    }

    /// Adds an entry, unless its key has one already.
    pub fn add(&self, key: &K, value: &V) -> io::Result<()> {
        sys::add(self.fd.as_fd(), key, value)
    }

    /// Removes an entry. Doing it again is no error.
    pub fn remove(&self, key: &K) -> io::Result<()> {
        sys::remove(self.fd.as_fd(), key)
    }
}
