//! The dataplane of a node: loads the eBPF programs, keeps their maps as the control plane wants
//! them, and connects pods.
//!
//! ```text
//! changes ─► desired (checked) ─┐
//!                               ├─► plan ─► actions ─► apply ─► maps
//! maps ─► observed ─────────────┘
//! ```
//!
//! The plan is a pure function; the algorithms it uses ([`maglev`], [`cuckoo`], [`lut`]) do no I/O.
//! Knows nothing of Kubernetes, of processes in pods, or of how the state reaches the node.

#![deny(unsafe_code)] // `sys` alone is allowed to

mod action;
mod announce;
mod apply;
mod changes;
pub mod cuckoo;
mod dataplane;
pub mod decode;
pub mod desired;
mod drains;
pub mod entries;
mod error;
#[cfg(test)]
mod examples;
mod forwarding;
mod inquiry;
pub mod ipam;
mod jiffies;
mod limits;
pub mod links;
pub mod loader;
mod local;
pub mod lut;
pub mod maglev;
pub mod moving;
mod neighbours;
pub mod netlink;
pub mod netns;
pub mod object;
pub mod observed;
mod packet_socket;
pub mod plan;
pub mod pod_network;
mod probing;
pub mod rates;
mod read;
pub mod recipe;
mod sampler;
pub mod slot_map;
mod state;
mod succession;
pub mod sweep;
mod sys;
pub mod trace;
mod uplinks;
pub mod view;

pub use action::Action;
pub use apply::Error as MapError;
pub use changes::Changes;
pub use dataplane::{Applied, Config, Dataplane};
pub use error::Error;
pub use inquiry::{LocalBackends, ServerCheck};
pub use limits::FlowLimits;
pub use local::{Local, Way};
