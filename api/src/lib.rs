//! Resource types of the Kubernetes API as Fairlead serves them, and everything that can be said
//! about an object without doing I/O: names, identities, the table of resources, decoding,
//! defaulting, validation, patching, selectors, printer columns, OpenAPI.
//!
//! Refuses to know: sockets, clocks, storage, the dataplane's maps.

#![forbid(unsafe_code)]

pub mod balancing;
pub mod claims;
pub mod cluster_dns;
pub mod decode;
pub mod discovery;
mod error_chain;
mod identity;
mod index;
mod kinds;
pub mod names;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod quantity;
mod ranges;
pub mod resource;
pub mod schema;
pub mod selector;
mod stamp;
pub mod status;
pub mod table;

pub use error_chain::error_chain;
pub use identity::{BackendId, Generation, NodeName, Revision, ServiceId, VpcId};
pub use index::Index;
pub use k8s_openapi;
pub use object::Encoded;
pub use ranges::{FamilyRanges, InvalidRanges};
pub use stamp::RevisionedBytes;
