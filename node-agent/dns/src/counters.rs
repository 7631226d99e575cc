//! What was asked and what came of it, counted since the process began.

use std::sync::atomic::{AtomicU64, Ordering};

use hickory_proto::op::ResponseCode;
use serde_json::{Map, Value};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)+) => {
        /// One thing that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Counter {
            $($(#[$doc])* $variant,)+
        }

        const NAMES: &[&str] = &[$($name),+];
    };
}

counters! {
    /// Queries that came in datagrams.
    QueriesUdp => "queries_udp",
    /// Queries that came over connections.
    QueriesTcp => "queries_tcp",
    /// Messages that no query could be read from.
    Malformed => "malformed",
    /// From addresses that are neither pods' nor this node's: they get no answer.
    Strangers => "strangers",
    /// Answered from the cluster's names.
    Cluster => "cluster",
    /// Answered from what others had answered before.
    CacheHits => "cache_hits",
    /// Asked others for.
    Forwarded => "forwarded",
    /// Not asked for, because too many questions to others wait.
    Overloaded => "overloaded",
    /// Servers that did not answer in time.
    UpstreamTimeouts => "upstream_timeouts",
    /// Servers that could not be asked, or would not answer.
    UpstreamErrors => "upstream_errors",
    /// Questions that others had to be asked again over TCP.
    UpstreamTruncated => "upstream_truncated",
    /// Answers cut for a datagram: the client asks again over TCP.
    Truncated => "truncated",
    /// Responses that say that there is no error.
    NoError => "responses_noerror",
    /// Responses that say that there is no such name.
    NoName => "responses_nxdomain",
    /// Responses that say that nobody could answer.
    ServerFailure => "responses_servfail",
    /// All other responses.
    Other => "responses_other",
}

/// All counters.
#[derive(Debug)]
pub(crate) struct Counters(Vec<AtomicU64>);

impl Default for Counters {
    fn default() -> Self {
        Self(NAMES.iter().map(|_| AtomicU64::new(0)).collect())
    }
}

impl Counters {
    pub(crate) fn add(&self, counter: Counter) {
        self.0[counter as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_response(&self, code: ResponseCode) {
        self.add(match code {
            ResponseCode::NoError => Counter::NoError,
            ResponseCode::NXDomain => Counter::NoName,
            ResponseCode::ServFail => Counter::ServerFailure,
            _ => Counter::Other,
        });
    }

    /// By name, as `netctl dns` shows them.
    pub(crate) fn view(&self) -> Value {
        let values = self.0.iter().map(|counter| counter.load(Ordering::Relaxed));
        let names = NAMES.iter().map(|name| (*name).to_owned());
        Value::Object(Map::from_iter(names.zip(values.map(Value::from))))
    }

    #[cfg(test)]
    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }
}
