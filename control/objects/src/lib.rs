//! Typed objects over the store, for the parts of the control plane that live beside it: a cache
//! kept current by one watch, writes that read, change and write again on a conflict, and events
//! that count instead of piling up.
//!
//! Refuses to know: HTTP, users, and what any controller wants an object to be.

#![forbid(unsafe_code)]

mod cache;
mod deletion;
mod event;
mod informer;
mod name;
mod write;

pub use cache::{Cache, Change, Changed, Delta, Partial, Table};
pub use deletion::Grace;
pub use event::{About, EventType, Recorder};
pub use informer::Informer;
pub use name::{Object, ObjectName};
pub use write::{WriteError, Writer, Written, random_suffix};
