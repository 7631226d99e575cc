//! Packets through the real, loaded programs, by `BPF_PROG_TEST_RUN`: a [`World`] fills the maps of
//! a node by hand, [`frame`] makes packets and takes them apart, and the tables of cases in `tests/`
//! say what comes out.
//!
//! Needs root and the built object; see [`World::open`] for what happens without.

pub mod dual;
pub mod fragments;
pub mod frame;
pub mod frame_v6;
pub mod node;
mod refused;
mod segment;
mod service;
mod transport;
mod world;

pub use service::{Client, Service};
pub use world::{
    CLIENT, CLIENT_V6, NODE_1, NODE_1_V6, NODE_2, NODE_2_MAC, NODE_3, Outcome, POD_1, POD_1_V6,
    POD_2, POD_2_V6, POD_3, VIP, VIP_V6, Verdict, World, is_root_missing,
};
