//! Running a node's pods: images, sandboxes, containers, probes, volumes, logs.
//!
//! [`Pods`] is told which pods the node has and reports what becomes of them. It owns everything
//! a pod is made of on the node, except for its network, which it asks a [`PodNetwork`] for. It
//! refuses to know where pods come from (no API, no session), and what their packets do.
//!
//! One way: `assign → worker → plan → runtime → shim → container`, and back: `shim → worker →
//! status → Report`. Containers are held by a small process a pod ([`shim_main`]), so that the
//! agent may be restarted without a pod noticing.

#![deny(unsafe_code)]

mod cgroup;
mod config;
mod files;
mod image;
mod logs;
mod machine;
mod network_files;
mod objects;
mod pod;
mod pods;
mod pressure;
mod probes;
mod quantity;
mod report;
mod runtime;
mod shim;
mod spec;
mod sys;
mod volumes;
mod worker;

pub use config::Config;
pub use logs::LogRequest;
pub use machine::{missing_capabilities, node_info, node_resources};
pub use objects::Objects;
pub use pods::{Error, Pods};
pub use pressure::Pressure;
pub use report::{ClusterDns, Event, NetworkError, PodNetwork, Report};
pub use runtime::RuntimeError;
pub use shim::{SHIM_ARGUMENT, shim_main};
