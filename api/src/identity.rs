//! Newtypes for the identities that cross crate borders, one per concept.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A `resourceVersion`: the count of mutations the replicated state machine had applied when
    /// it made one of its own. 0 is "before the first write".
    Revision(u64)
}
number! {
    /// The version of what a node's dataplane should hold: the store's revision it was compiled
    /// at, so it grows monotonically across leaders.
    Generation(u64)
}
number! {
    /// A service port in the dataplane, unique in the cluster for as long as the port exists.
    /// 0 is never assigned.
    ServiceId(u32)
}
number! {
    /// One backend (an address and a port of one service port), unique in the cluster for as long
    /// as it exists. Names the pod in the inner destination MAC of an encapsulated packet.
    /// 0 is never assigned.
    BackendId(u32)
}
number! {
    /// A tenant network. 24 bits: it is also the VNI of RFC 7348. 0 is the cluster's default VPC.
    VpcId(u32)
}

/// A node's name: a DNS-1123 subdomain, equal to the `Node` object's name and to the
/// `system:node:<name>` of its certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(String);

impl NodeName {
    /// Wraps a name that was validated where it entered the system.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
