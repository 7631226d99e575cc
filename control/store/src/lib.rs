//! The replicated store: openraft over a write-ahead log, a multi-version map in memory, watches.
//!
//! Refuses to know: JSON, HTTP, what an object means.

#![forbid(unsafe_code)]

mod key;
mod transaction;
mod value;

pub use fairlead_api::RevisionedBytes;
pub use key::Key;
pub use transaction::{Check, CommitError, Committed, Expect, Op, Transaction};
pub use value::{Entry, Event};
