//! Packets through the real, loaded programs, by `BPF_PROG_TEST_RUN`: a [`World`] fills the maps of
//! a node by hand, [`frame`] makes packets and takes them apart, and the tables of cases in `tests/`
//! say what comes out.
//!
//! Needs root and the built object; see [`World::open`] for what happens without.

pub mod frame;
mod world;

pub use world::{
    CLIENT, NODE_1, NODE_2, NODE_3, Outcome, POD_1, POD_2, POD_3, VIP, Verdict, World,
    is_root_missing,
};
