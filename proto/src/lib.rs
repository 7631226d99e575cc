//! Messages and services between the parts: `node` (control plane ↔ agent) and `raft` (member ↔
//! member).
//!
//! The Rust code under `generated/` is made from `proto/*.proto` and kept in the repository, so
//! that a plain build needs no `protoc`; a test regenerates it and fails on a difference
//! (`FAIRLEAD_BLESS=1` writes it). Conversions live with the types they convert to.

#![forbid(unsafe_code)]

/// Control plane ↔ agent.
#[allow(missing_docs, unreachable_pub, clippy::all)] // generated; documented in node.proto
pub mod node {
    include!("generated/fairlead.node.v1.rs");
}

/// Member ↔ member of the control plane.
#[allow(missing_docs, unreachable_pub, clippy::all)] // generated; documented in raft.proto
pub mod raft {
    include!("generated/fairlead.raft.v1.rs");
}
