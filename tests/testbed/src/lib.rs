//! Hosts, networks and whole clusters on one machine, made of namespaces.
//!
//! Owns everything that makes a machine look like several: network namespaces and the links between
//! them, processes that live in them, cgroups, mounts, a client that counts requests, and the
//! cluster that `cargo xtask up` and the cluster tests share. Whatever it makes, it can find again
//! and remove, also when the process that made it died half-way.
//!
//! Refuses to know what the programs it starts do inside: it calls binaries and `kubectl`, never
//! the crates of the control plane or the agent.

pub mod cgroup;
pub mod cluster;
mod deadline;
mod kubectl;
pub mod mounts;
mod netns;
mod passing;
mod privilege;
mod process;
mod progress;
mod sys;
pub mod table;
pub mod traffic;
mod workspace;

pub use deadline::Deadline;
pub use kubectl::{Kubectl, Outcome};
pub use netns::{NetNs, NetNsHandle};
pub use privilege::{skip_without_programs, skip_without_root};
pub use process::{Launch, ProcessId};
pub use progress::Progress;
pub use workspace::Workspace;
