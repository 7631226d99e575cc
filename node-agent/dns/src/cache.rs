//! What others answered, for as long as they allow.

use std::{
    collections::HashMap,
    mem,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{LowerName, RData, RecordType},
};

use crate::answer::Reply;

/// How many answers are kept: of 1 KiB each, 10 MiB.
pub(crate) const ANSWERS_MAX: usize = 10_000;
/// A larger answer is not kept: the cache is bounded in bytes as well.
const RECORDS_MAX: usize = 64;
/// Nothing is kept for longer than an hour, whatever it says.
const TTL_MAX: u32 = 3_600;
/// Nor that something does not exist, for longer than this: what is about to be made is asked for.
const NEGATIVE_TTL_MAX: u32 = 300;

/// What an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    name: LowerName,
    kind: RecordType,
    wants_signatures: bool,
    checks_itself: bool,
}

impl Key {
    pub(crate) fn new(query: &Query, wants_signatures: bool, checks_itself: bool) -> Self {
        Self {
            name: query.name().into(),
            kind: query.query_type(),
            wants_signatures,
            checks_itself,
        }
    }
}

struct Entry {
    reply: Reply,
    taken: Instant,
    seconds: u32,
}

/// Answers by question. Those that nobody asked for in the longest time go first: of two halves the
/// older is dropped when the newer is full, and what is asked for moves to the newer.
#[derive(Default)]
pub(crate) struct Cache {
    newer: HashMap<Key, Entry>,
    older: HashMap<Key, Entry>,
}

impl Cache {
    /// The answer, with the time it may still be kept for.
    pub(crate) fn get(&mut self, key: &Key, now: Instant) -> Option<Reply> {
        if let Some(entry) = self.older.remove(key) {
            self.put(key.clone(), entry);
        }
        let entry = self.newer.get(key)?;
        let age = now.saturating_duration_since(entry.taken);
        if age >= Duration::from_secs(entry.seconds.into()) {
            self.newer.remove(key);
            return None;
        }
        let mut reply = entry.reply.clone();
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let records = reply.answers.iter_mut().chain(&mut reply.authorities);
        for record in records.chain(&mut reply.additionals) {
            record.ttl = record.ttl.min(TTL_MAX).saturating_sub(age);
        }
        Some(reply)
    }

    /// Keeps an answer, if it says for how long.
    pub(crate) fn insert(&mut self, key: Key, reply: &Reply, now: Instant) {
        let Some(seconds) = lifetime(reply) else {
            return;
        };
        let records = reply.answers.len() + reply.authorities.len() + reply.additionals.len();
        if seconds > 0 && records <= RECORDS_MAX {
            let entry = Entry {
                reply: reply.clone(),
                taken: now,
                seconds,
            };
            self.older.remove(&key);
            self.put(key, entry);
        }
    }

    /// How many answers it holds, old ones included.
    pub(crate) fn len(&self) -> usize {
        self.newer.len() + self.older.len()
    }

    fn put(&mut self, key: Key, entry: Entry) {
        if self.newer.len() >= ANSWERS_MAX / 2 {
            self.older = mem::take(&mut self.newer);
        }
        self.newer.insert(key, entry);
    }
}

/// That nobody could answer is kept for as short as may be (RFC 9520 §3.2).
const FAILURE_TTL: u32 = 1;

/// For how long an answer may be kept, seconds. `None`: not at all (RFC 2308 §5: a negative one
/// without the start of its zone).
fn lifetime(reply: &Reply) -> Option<u32> {
    let all = reply.answers.iter().chain(&reply.authorities);
    let shortest = all.chain(&reply.additionals).map(|record| record.ttl).min();
    let is_positive = reply.code == ResponseCode::NoError
        && reply
            .answers
            .iter()
            .any(|record| record.record_type() != RecordType::CNAME);
    if is_positive {
        return shortest.map(|ttl| ttl.min(TTL_MAX));
    }
    if !matches!(reply.code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Some(FAILURE_TTL);
    }
    let minimum = reply
        .authorities
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(start) => Some(start.minimum),
            _ => None,
        });
    Some(minimum?.min(shortest?).min(NEGATIVE_TTL_MAX))
}

impl From<Message> for Reply {
    fn from(message: Message) -> Self {
        Self {
            code: message.response_code,
            is_authoritative: false,
            is_proven: message.authentic_data,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
