//! What the eBPF programs and user space agree on: map keys and values, map names and capacities,
//! drop reasons, the flow hash, checksums, Maglev.
//!
//! `no_std`, no allocation, nothing of Kubernetes. Every struct is `repr(C)` with explicit padding
//! and asserted size, so that a key never carries uninitialised bytes into a hash map.

#![cfg_attr(not(test), no_std)]
