//! Messages as they are on the wire (RFC 1035 §4), with EDNS (RFC 6891).

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, RecordType},
};

use crate::answer::Reply;

/// What fits a datagram on every path, as all agree since 2020 (<https://www.dnsflagday.net/2020/>).
pub(crate) const PAYLOAD_MAX: u16 = 1232;
/// What clients take that say nothing (RFC 1035 §4.2.1).
const PAYLOAD_MIN: u16 = 512;
const HEADER_SIZE: usize = 12;
/// The bit of the third byte that tells responses from queries.
const RESPONSE: u8 = 0x80;

/// How a query came, and its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A question that can be answered.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) query: Query,
    metadata: Metadata,
    /// The datagram that the client takes, if it speaks EDNS.
    payload_max: Option<u16>,
    /// It wants signatures (RFC 3225).
    pub(crate) wants_signatures: bool,
}

/// Why there is no question in a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It deserves no answer: too short for one, or a response itself.
    Ignored,
    /// The client is told with this message.
    Refused(Vec<u8>, ResponseCode),
}

impl Request {
    /// A question that nobody sent.
    pub(crate) fn new(query: Query) -> Self {
        let mut metadata = Metadata::new(0, MessageType::Query, OpCode::Query);
        metadata.recursion_desired = true;
        Self {
            query,
            metadata,
            payload_max: None,
            wants_signatures: false,
        }
    }

    /// Reads a message that came.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Unanswered> {
        if bytes.len() < HEADER_SIZE || bytes[2] & RESPONSE != 0 {
            return Err(Unanswered::Ignored);
        }
        let Ok(message) = Message::from_vec(bytes) else {
            let mut metadata = Metadata::new(
                u16::from_be_bytes([bytes[0], bytes[1]]),
                MessageType::Query,
                OpCode::from_u8((bytes[2] >> 3) & 0xf),
            );
            metadata.recursion_desired = bytes[2] & 1 != 0;
            return Err(refuse(&metadata, &[], None, ResponseCode::FormErr));
        };
        let edns = message.edns.as_ref();
        let refused = |code| {
            let metadata = &message.metadata;
            Err(refuse(metadata, &message.queries, edns, code))
        };
        if message.op_code != OpCode::Query {
            return refused(ResponseCode::NotImp);
        }
        if edns.is_some_and(|edns| edns.version() != 0) {
            return refused(ResponseCode::BADVERS);
        }
        let [query] = &message.queries[..] else {
            return refused(ResponseCode::FormErr);
        };
        let is_transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
        if query.query_class() != DNSClass::IN || is_transfer {
            return refused(ResponseCode::Refused);
        }
        Ok(Self {
            query: query.clone(),
            metadata: message.metadata,
            payload_max: edns.map(Edns::max_payload),
            wants_signatures: edns.is_some_and(|edns| edns.flags().dnssec_ok),
        })
    }

    /// Whether others may be asked for it.
    pub(crate) fn wants_recursion(&self) -> bool {
        self.metadata.recursion_desired
    }

    /// Whether it wants what has not been proven, too (RFC 4035 §3.2.2).
    pub(crate) fn checks_itself(&self) -> bool {
        self.metadata.checking_disabled
    }

    /// The response, and whether it had to be cut.
    pub(crate) fn response(&self, reply: Reply, transport: Transport) -> (Vec<u8>, bool) {
        let mut metadata = Metadata::response_from_request(&self.metadata);
        metadata.recursion_available = true;
        metadata.authoritative = reply.is_authoritative;
        // Only who knows what it means is told (RFC 6840 §5.8).
        metadata.authentic_data =
            reply.is_proven && (self.wants_signatures || self.metadata.authentic_data);
        metadata.response_code = reply.code;
        let mut message = Message::new(metadata.id, MessageType::Response, metadata.op_code);
        message.metadata = metadata;
        message.add_query(self.query.clone());
        message.answers = reply.answers;
        message.authorities = reply.authorities;
        message.additionals = reply.additionals;
        message.edns = self.payload_max.map(|_| edns(self.wants_signatures));
        let size_max = match transport {
            Transport::Udp => self.payload_max.unwrap_or(PAYLOAD_MIN),
            Transport::Tcp => u16::MAX,
        };
        let size_max = match transport {
            Transport::Udp => size_max.clamp(PAYLOAD_MIN, PAYLOAD_MAX),
            Transport::Tcp => size_max,
        };
        cut(message, usize::from(size_max))
    }
}

/// Encodes a message in so many bytes. What only goes along is left out first, silently; then the
/// answers: over UDP all of them, for the client asks again over TCP, where as many stay as fit.
fn cut(mut message: Message, size_max: usize) -> (Vec<u8>, bool) {
    // The encoder itself ends at 64 KiB, with the bit set that says so.
    let encode = |message: &Message| {
        let bytes = message.to_vec().unwrap_or_default();
        let is_cut = bytes.get(2).is_some_and(|flags| flags & 2 != 0);
        (!bytes.is_empty() && bytes.len() <= size_max).then_some((bytes, is_cut))
    };
    if let Some((bytes, false)) = encode(&message) {
        return (bytes, false);
    }
    message.additionals.clear();
    if let Some((bytes, is_cut)) = encode(&message) {
        return (bytes, is_cut);
    }
    let bytes = message.truncate().to_vec().unwrap_or_default();
    (bytes, true)
}

/// A query to others: the same question, with an id of ours.
pub(crate) fn question(id: u16, request: &Request, query: &Query) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = request.checks_itself();
    message.add_query(query.clone());
    message.edns = Some(edns(request.wants_signatures));
    message.to_vec().unwrap_or_default()
}

/// The response that answers this question, if the bytes are one.
pub(crate) fn read_response(bytes: &[u8], id: u16, query: &Query) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let is_ours = message.id == id && message.message_type == MessageType::Response;
    // Servers that cannot read a question may leave it out.
    let is_asked = match &message.queries[..] {
        [] => message.response_code != ResponseCode::NoError,
        [one] => one == query,
        _ => false,
    };
    (is_ours && is_asked).then_some(message)
}

fn edns(wants_signatures: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD_MAX);
    edns.set_dnssec_ok(wants_signatures);
    edns
}

fn refuse(
    metadata: &Metadata,
    queries: &[Query],
    asked: Option<&Edns>,
    code: ResponseCode,
) -> Unanswered {
    let mut message = Message::new(metadata.id, MessageType::Response, metadata.op_code);
    message.metadata = Metadata::response_from_request(metadata);
    message.metadata.response_code = code;
    message.add_queries(queries.iter().take(1).cloned());
    message.edns = asked.map(|_| edns(false));
    match message.to_vec() {
        Ok(bytes) => Unanswered::Refused(bytes, code),
        Err(_) => Unanswered::Ignored,
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
