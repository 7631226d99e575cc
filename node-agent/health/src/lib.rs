//! Whether servers answer: asks them, again and again, and believes an answer only after so many of
//! the same kind in a row, as keepalived does.
//!
//! Owns the questions (a TCP connection, an HTTP document, an echo), when they are asked, and what
//! is made of the answers ([`Verdict`], a pure state machine). Refuses to know what servers are for,
//! and what becomes of one that does not answer.

#![forbid(unsafe_code)]

mod http;
mod monitor;
mod ping;
mod probe;
mod verdict;

pub use monitor::{Monitor, Report};
pub use probe::{Failure, Probe};
pub use verdict::{Health, Verdict};

use std::{net::IpAddr, time::Duration};

/// What is checked, and how. Two that are equal are one: the server is asked once for both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// Who is asked.
    pub address: IpAddr,
    /// What.
    pub probe: Probe,
    /// When, and how much it takes to be believed.
    pub rhythm: Rhythm,
}

/// When a server is asked, and how much it takes to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rhythm {
    /// From one question to the next.
    pub interval: Duration,
    /// How long an answer may take; no answer by then is a failure.
    pub timeout: Duration,
    /// So many successes in a row make it healthy.
    pub rise: u32,
    /// So many failures in a row make it unhealthy.
    pub fall: u32,
}
