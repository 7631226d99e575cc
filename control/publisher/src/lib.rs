//! The publisher: what each node should run and forward, compiled from the cluster's objects and
//! kept current on every node over the one connection its agent dials.
//!
//! A compiled state has a generation, the store's revision it was compiled at. An agent gets the
//! whole state when it connects and changes from then on, and acknowledges what is in its maps;
//! so the control plane knows which node forwards by which state. What agents report comes back
//! the same way and is written to the store here.
//!
//! Refuses to know: how nodes pick a backend, what a map looks like, who may join.

#![forbid(unsafe_code)]

mod announcements;
mod balancing;
mod compile;
mod delta;
mod departures;
mod identities;
mod liveness;
mod loads;
mod names;
mod peer;
mod progress;
mod publisher;
mod references;
mod reports;
mod service;
mod session;
mod silence;
mod state;
mod tunnel;

pub use progress::NodeProgress;
pub use publisher::{Config, Publisher, WaitError};
pub use service::{Enrollment, NodeService};
pub use tunnel::OpenError;
