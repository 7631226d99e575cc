//! VIPs that are prefixes: who answers at an address that has nobody of its own at a port.
//!
//! Hardly any node has such VIPs, so nothing of this is inlined: who has none reads one flag, and the
//! stack of who has some is not needed here.

use core::hint::black_box;

use aya_ebpf::maps::lpm_trie::Key;
use fairlead_dataplane_common::maps::VIP_PREFIXES_NESTED_MAX;
use fairlead_dataplane_common::{Address, Config, FrontendEntry, FrontendKey, RouteKey};

use crate::lookup;
use crate::maps::{FRONTENDS, PREFIX_QUERY, VIP_PREFIXES};

/// What is looked for, and what was found.
#[repr(C)]
pub struct Query {
    /// The key of `vip_prefixes`: how many of its bits count, and the bits.
    bits: u32,
    place: RouteKey,
    /// The key of `frontends`: of an address, and then of the prefixes that it is in.
    frontend: FrontendKey,
    /// The entry found.
    found: FrontendEntry,
}

impl Query {
    #[inline(always)]
    fn key(&self) -> &Key<RouteKey> {
        // SAFETY: a key of a trie is a number of bits and what they are of, without a gap, at any
        // address.
        unsafe { &*(&raw const *self).cast() }
    }

    /// Whether somebody answers at a prefix that the address of [`Self::frontend`] is in, the longest
    /// where several do: [`Self::found`] says who.
    ///
    /// Which prefixes there are holds for both banks; only `frontends` says what is in force. Written
    /// field by field: what is put together on the stack first has no room there.
    #[inline(always)]
    fn is_answered(&mut self) -> bool {
        let Ok(config) = lookup::config() else {
            return false;
        };
        // A prefix may hold the node's own address, which stays the node's.
        if config.is_own(&self.frontend.address) {
            return false;
        }
        self.bits = RouteKey::BITS;
        self.place.vpc_be = self.frontend.vpc.to_be();
        self.place.address.words = words(&self.frontend.address);
        for _ in 0..VIP_PREFIXES_NESTED_MAX {
            let Some(prefix) = VIP_PREFIXES.get(self.key()) else {
                return false;
            };
            self.frontend.address.words = words(&prefix.network);
            self.frontend.prefix = prefix.length as u8;
            let [first, second] = self.frontend.buckets();
            let found = match entry(config, first, &self.frontend) {
                None => entry(config, second, &self.frontend),
                found => found,
            };
            if let Some(entry) = found {
                self.found.service = entry.service;
                self.found.flags = entry.flags;
                return true;
            }
            // Of those that are shorter, the longest.
            self.bits = prefix.bits() - 1;
        }
        false
    }
}

#[inline(always)]
fn entry(config: &Config, bucket: u32, key: &FrontendKey) -> Option<&'static FrontendEntry> {
    let bucket = FRONTENDS.get(FrontendKey::index(config.bank, bucket))?;
    // The key's words are read again: kept from before, they would take much of the stack.
    bucket.find(black_box(key))
}

/// One by one: a copy of the whole would be put together on the stack first.
#[inline(always)]
fn words(address: &Address) -> [u32; 4] {
    let [first, second, third, fourth] = &address.words;
    [*first, *second, *third, *fourth]
}

/// The frontend of `key`, which has none of its own, by the prefix that its address is in. It is good
/// until the next one is looked for.
#[inline(always)]
pub fn of_packet(key: &FrontendKey) -> Option<&'static FrontendEntry> {
    // SAFETY: the element is this CPU's own, and programs for packets do not interleave here.
    unsafe { (*PREFIX_QUERY.get_ptr_mut(0)?).frontend = *key };
    if find() == 0 {
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { &(*PREFIX_QUERY.get_ptr(0)?).found })
}

/// Answers the packet's query; 0 or 1.
#[inline(never)]
#[unsafe(export_name = "prefix_find")]
extern "C" fn find() -> u32 {
    let Some(query) = PREFIX_QUERY.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: as in `of_packet`.
    unsafe { (*query).is_answered().into() }
}

/// The same for a socket, while whose query is answered another's, or a packet's, may come in between.
#[inline(always)]
pub fn of_socket(key: &FrontendKey) -> Option<u32> {
    let mut query = Query {
        bits: 0,
        place: RouteKey::default(),
        frontend: *key,
        found: FrontendEntry::default(),
    };
    (find_for_socket(&mut query) != 0).then_some(query.found.service)
}

#[inline(never)]
fn find_for_socket(query: &mut Query) -> u32 {
    query.is_answered().into()
}
