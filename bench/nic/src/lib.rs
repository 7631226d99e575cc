//! Sending and receiving at the rate of the wire: a generator by live frames
//! (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18) and a sink, both XDP programs of
//! `dataplane-ebpf/src/bin/traffic.rs`.
//!
//! Owns the flows that are sent and what is counted of them; refuses to know what is between the two.

#![forbid(unsafe_code)]

mod histogram;
pub mod interface;
mod traffic;

pub use histogram::{Histogram, Percentiles};
pub use traffic::{Flows, Sender, Traffic, pin_to};
