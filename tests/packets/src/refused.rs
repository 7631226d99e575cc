//! Packets of which the kernel refuses what programs ask of it.

use crate::{Outcome, World};

/// Bytes of metadata before a frame (more than 32 since Linux 6.8). Of the 256 that drivers leave before it
/// (`XDP_PACKET_HEADROOM`), the kernel keeps 40 to itself (`struct xdp_frame`): that leaves eight.
const METADATA: usize = 208;
/// `sizeof(struct xdp_md)` of linux/bpf.h.
const XDP_MD: usize = 24;
/// `offsetofend(struct __sk_buff, gso_size)` of linux/bpf.h, whose last field this is.
const SK_BUFF: usize = 180;
/// What each segment would hold.
const GSO_SIZE: u32 = 1_000;

impl World {
    /// Runs a program for XDP on a frame that has no room for headers before it: the driver's metadata
    /// is there (`bpf_xdp_adjust_head` of net/core/filter.c).
    pub fn run_without_headroom(&mut self, program: &'static str, frame: &[u8]) -> Outcome {
        let data = [&[0; METADATA], frame].concat();
        let mut context = [0; XDP_MD];
        context[..4].copy_from_slice(&(METADATA as u32).to_ne_bytes());
        context[4..8].copy_from_slice(&(data.len() as u32).to_ne_bytes());
        let mut outcome = self.run_in(Some(&context), program, &data);
        outcome.frame.drain(..METADATA);
        outcome
    }

    /// Runs a program for skbs on a packet that is to be segmented, in a way that the kernel puts no
    /// headers before and takes none off (`bpf_skb_adjust_room` of net/core/filter.c).
    pub fn run_segmented(&mut self, program: &'static str, frame: &[u8]) -> Outcome {
        let mut context = [0; SK_BUFF];
        context[SK_BUFF - 4..].copy_from_slice(&GSO_SIZE.to_ne_bytes());
        self.run_in(Some(&context), program, frame)
    }
}
