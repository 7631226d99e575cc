//! The DNS of a node: answers its pods about the cluster's names, and asks others about the rest.
//!
//! [`Zones`] holds what the control plane said of names, and answers from it alone: a pure function
//! of names and a question. Around it, [`process`] serves sockets in a process of its own, so that
//! names are found while the agent is away, and [`Keeper`] is the agent's hold on that process: it
//! starts it, adopts it after a restart, and passes on what changed.
//!
//! Names follow the Kubernetes DNS specification, version 1.1.0
//! (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>).
//!
//! Refuses to know: pods, maps, and where the control plane is.

#![forbid(unsafe_code)]

mod answer;
mod cache;
mod changes;
mod check;
mod counters;
#[cfg(test)]
mod examples;
mod keeper;
mod message;
pub mod process;
mod protocol;
mod record;
mod reverse;
mod server;
mod upstream;
mod view;
mod zone;

pub use changes::Changes;
pub use check::{ClusterDns, Invalid};
pub use keeper::Keeper;
pub use process::PROCESS_ARGUMENT;
pub use zone::Zones;
