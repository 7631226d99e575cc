//! The Kubernetes REST API over the replicated store: TLS, identity, authorisation, content
//! negotiation, and one generic set of handlers driven by the table of resources.
//!
//! Refuses to know: raft, nodes' connections (behind [`Nodes`]), controllers, the dataplane.

#![forbid(unsafe_code)]

mod accept;
mod addresses;
mod api;
mod authorize;
mod body;
mod config;
mod continuation;
mod discovery;
mod document;
mod front_proxy;
mod handlers;
mod metadata;
mod namespaces;
mod nodes;
mod pods;
mod query;
mod request;
mod response;
mod revision;
mod router;
mod selection;
mod server;
mod services;
mod subject;
mod write;

pub use config::Config;
pub use front_proxy::{FRONT_PROXY_USER, FrontProxy};
pub use nodes::Nodes;
pub use server::{Error, serve};
