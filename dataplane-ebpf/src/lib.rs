//! The packet path: what a node does with a packet or a connecting socket, as eBPF.
//!
//! One module per role. `frame` and `header` read and write bytes; `parse` says what a packet is;
//! `maps` declares the state; `lookup` finds frontends and neighbours; `pick` says which backend a
//! packet is for, and `forward` how it gets there; `encap` and `rewrite` change packets; `ingress`, `uplink`,
//! `pod` and `socket` are the ways through, one a hook, and `stage` is what their parts leave to each
//! other; `verdict` is the one exit that counts drops.
//!
//! What every packet meets is inlined into its program: a call costs as much as the lookup it would
//! wrap. What few meet is not (`#[inline(never)]`): the verifier grants 512 bytes of stack to a
//! program and all it calls, and the compiler gives everything inlined a place of its own. Such a
//! function gets the context and numbers only, and reads the packet again. It is exported, which makes
//! it a global function to the verifier: looked at once, for whatever arguments. Of others the verifier
//! follows each call, by every way that leads to it; Linux 6.1 gives up after a million instructions.
//!
//! Nothing here knows where a table's content comes from; see `dataplane-common` for the layouts.

#![no_std]
#![feature(asm_experimental_arch)]
#![warn(missing_docs)]

mod affinity;
mod announce;
mod atomic;
mod decap;
mod encap;
mod forward;
mod fragment;
mod frame;
mod header;
pub mod ingress;
mod lookup;
pub mod maps;
pub mod measure;
mod mss;
mod nat;
mod noting;
mod options;
mod parse;
mod pick;
pub mod pod;
mod prefix;
mod probe;
mod reply;
mod reset;
mod rewrite;
mod schedule;
mod second_chance;
mod server;
mod snat;
pub mod socket;
mod stage;
mod stats;
mod too_big;
mod track;
pub mod uplink;
pub mod verdict;
mod vlan;

pub use parse::Family;
