//! Resource types of the Kubernetes API as Fairlead serves them, and everything that can be said
//! about an object without doing I/O: names, identities, the table of resources, decoding,
//! defaulting, validation, patching, selectors, printer columns, OpenAPI.
//!
//! Refuses to know: sockets, clocks, storage, the dataplane's maps.

#![forbid(unsafe_code)]

mod identity;
mod index;
pub mod resource;
mod stamp;
pub mod status;

pub use identity::{BackendId, Generation, NodeName, Revision, ServiceId, VpcId};
pub use index::Index;
pub use k8s_openapi;
pub use stamp::RevisionedBytes;
