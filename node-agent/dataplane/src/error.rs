use std::path::PathBuf;

use fairlead_api::Generation;

use crate::{apply, desired, ipam, netlink, plan, pod_network};

/// Why the dataplane could not do what it was asked. Unless a variant says otherwise, what was in
/// force still is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state is refused for one of its fields; nothing has been applied.
    #[error("dataplane state is invalid: {0}")]
    Invalid(#[source] desired::Invalid),
    /// The state does not fit the maps; nothing has been applied.
    #[error("dataplane state is too large: {0}")]
    Full(#[source] plan::Full),
    /// Changes came before there was a whole state for them to change.
    #[error("changes of a state that is not known: the whole of it has to come first")]
    Incomplete,
    /// The maps hold a newer state.
    #[error("generation {offered} is older than {held}, which is in force")]
    Older {
        /// The state that was refused.
        offered: Generation,
        /// The state in force.
        held: Generation,
    },
    /// The programs could not be loaded, attached, adopted or removed.
    #[error("eBPF programs")]
    Programs(#[from] crate::loader::Error),
    /// A map could not be read or written. What was written so far is not in force, or was
    /// in force already and is complete; the next apply goes on from there.
    #[error(transparent)]
    Map(#[from] apply::Error),
    /// The record of pods' addresses refused.
    #[error(transparent)]
    Address(#[from] ipam::Error),
    /// A pod could not be connected or disconnected.
    #[error(transparent)]
    Pod(#[from] pod_network::Error),
    /// The kernel refused a request about links, routes or neighbours.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A netlink or packet socket could not be opened.
    #[error("open a socket to the kernel")]
    Socket(#[source] std::io::Error),
    /// The kernel's count of jiffies cannot be read.
    #[error("read the clock that programs note flows by")]
    Clock(#[source] std::io::Error),
    /// Flows that have ended could not be cleared away, or not all of them.
    #[error("sweep the maps of flows")]
    Sweep(#[source] std::io::Error),
    /// A configured uplink does not exist.
    #[error("uplink {name} does not exist")]
    NoUplink {
        /// As configured.
        name: String,
    },
    /// No uplink is configured.
    #[error("no uplink is configured")]
    NoUplinks,
    /// A directory cannot be made.
    #[error("make directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the filesystem said.
        #[source]
        source: std::io::Error,
    },
    /// There is no view of this name.
    #[error("there is no view \"{name}\"; there are {}, and trace", crate::view::NAMES.join(", "))]
    NoView {
        /// As asked.
        name: String,
    },
    /// A view was asked for with a parameter that cannot be.
    #[error("{name}: {problem}")]
    BadParameter {
        /// The parameter.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A packet could not be traced.
    #[error("trace a packet")]
    Trace(#[from] crate::trace::Error),
    /// The blocking part of an operation panicked.
    #[error("applying the state panicked")]
    Panicked,
}
