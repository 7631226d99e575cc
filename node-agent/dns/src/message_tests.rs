use std::net::Ipv4Addr;

use hickory_proto::{
    op::EdnsFlags,
    rr::{Name, RData, Record},
};
use proptest::prelude::*;

use super::*;

fn query(kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii("Web.shop.svc.cluster.local.").unwrap();
    message.add_query(Query::query(name, kind));
    message
}

fn read(message: &Message) -> Result<Request, Unanswered> {
    Request::read(&message.to_vec().unwrap())
}

fn refused(message: &Message) -> ResponseCode {
    let Err(Unanswered::Refused(bytes, code)) = read(message) else {
        panic!("{message:?}");
    };
    let response = Message::from_vec(&bytes).unwrap();
    // 16 has two names (RFC 6895 §2.3).
    let codes = (u16::from(response.response_code), u16::from(code));
    assert_eq!((response.id, codes.0), (7, codes.1));
    assert_eq!(response.message_type, MessageType::Response);
    code
}

fn addresses(count: u8) -> Reply {
    let name = Name::from_ascii("web.shop.svc.cluster.local.").unwrap();
    let record = |last| {
        Record::from_rdata(
            name.clone(),
            5,
            RData::A(Ipv4Addr::new(10, 0, 0, last).into()),
        )
    };
    Reply {
        is_authoritative: true,
        answers: (0..count).map(record).collect(),
        ..Reply::default()
    }
}

#[test]
fn response_has_the_question_as_it_was_asked_and_says_who_speaks() {
    let request = read(&query(RecordType::A)).unwrap();
    let (bytes, is_cut) = request.response(addresses(2), Transport::Udp);
    assert!(!is_cut);
    let response = Message::from_vec(&bytes).unwrap();
    assert_eq!(response.id, 7);
    assert!(response.authoritative && response.recursion_available && response.recursion_desired);
    assert_eq!(
        response.queries[0].name().to_ascii(),
        "Web.shop.svc.cluster.local."
    );
    assert_eq!((response.answers.len(), response.edns), (2, None));
}

#[test]
fn what_is_no_question_to_answer_is_refused_with_a_code() {
    let mut update = query(RecordType::A);
    update.metadata.op_code = OpCode::Status;
    let mut none = query(RecordType::A);
    none.queries.clear();
    let mut two = query(RecordType::A);
    two.queries.push(two.queries[0].clone());
    let mut chaos = query(RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut newer = query(RecordType::A);
    newer.edns = Some(Edns::new());
    newer.edns.as_mut().unwrap().set_version(1);
    for (message, code) in [
        (update, ResponseCode::NotImp),
        (none, ResponseCode::FormErr),
        (two, ResponseCode::FormErr),
        (chaos, ResponseCode::Refused),
        (query(RecordType::AXFR), ResponseCode::Refused),
        (newer, ResponseCode::BADVERS),
    ] {
        assert_eq!(refused(&message), code);
    }
    let mut bytes = query(RecordType::A).to_vec().unwrap();
    bytes.truncate(20);
    let Err(Unanswered::Refused(response, ResponseCode::FormErr)) = Request::read(&bytes) else {
        panic!("half a question is none");
    };
    assert_eq!(response[..2], [0, 7]);
}

#[test]
fn responses_and_scraps_are_ignored() {
    let mut response = query(RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(read(&response).unwrap_err(), Unanswered::Ignored);
    assert_eq!(Request::read(&[0; 11]).unwrap_err(), Unanswered::Ignored);
}

#[test]
fn answer_that_a_datagram_cannot_hold_is_cut_and_whole_over_tcp() {
    for (payload, fit) in [
        (None, 29),
        (Some(512), 28),
        (Some(4_096), 73),
        (Some(0), 28),
    ] {
        let mut message = query(RecordType::A);
        message.edns = payload.map(|size| {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            edns
        });
        let request = read(&message).unwrap();
        let size_max = usize::from(payload.unwrap_or(512).clamp(512, PAYLOAD_MAX));
        for count in [fit, fit + 1] {
            let (bytes, is_cut) = request.response(addresses(count), Transport::Udp);
            assert!(bytes.len() <= size_max, "{payload:?}");
            assert_eq!(is_cut, count > fit, "{payload:?} {count}");
            let response = Message::from_vec(&bytes).unwrap();
            assert_eq!(response.truncation, is_cut);
            assert_eq!(
                response.answers.len(),
                if is_cut { 0 } else { count.into() }
            );
            assert_eq!(response.edns.is_some(), payload.is_some());
        }
        let (bytes, is_cut) = request.response(addresses(200), Transport::Tcp);
        assert!(!is_cut);
        assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 200);
    }
}

#[test]
fn what_goes_along_is_left_out_before_answers_are() {
    let request = read(&query(RecordType::A)).unwrap();
    let mut reply = addresses(20);
    reply.additionals = addresses(20).answers;
    let (bytes, is_cut) = request.response(reply, Transport::Udp);
    let response = Message::from_vec(&bytes).unwrap();
    assert!(!is_cut && !response.truncation);
    assert_eq!(
        (response.answers.len(), response.additionals.len()),
        (20, 0)
    );
}

#[test]
fn signatures_are_asked_for_where_they_are_wanted() {
    let mut message = query(RecordType::A);
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true);
    message.edns = Some(edns);
    let request = read(&message).unwrap();
    assert!(request.wants_signatures);
    let asked = Message::from_vec(&question(9, &request, &request.query)).unwrap();
    let edns = asked.edns.as_ref().unwrap();
    let flags = EdnsFlags {
        dnssec_ok: true,
        ..EdnsFlags::default()
    };
    assert_eq!(
        (asked.id, edns.max_payload(), *edns.flags()),
        (9, PAYLOAD_MAX, flags)
    );
}

#[test]
fn only_the_answer_to_the_question_is_one() {
    let request = read(&query(RecordType::A)).unwrap();
    let asked = &request.query;
    let (bytes, _) = request.response(addresses(1), Transport::Udp);
    assert!(read_response(&bytes, 7, asked).is_some());
    assert!(read_response(&bytes, 8, asked).is_none());
    let other = read(&query(RecordType::AAAA)).unwrap();
    assert!(read_response(&bytes, 7, &other.query).is_none());
    let question = query(RecordType::A).to_vec().unwrap();
    assert!(read_response(&question, 7, asked).is_none());
}

proptest! {
    #[test]
    fn random_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(request) = Request::read(&bytes) {
            request.response(addresses(3), Transport::Udp);
        }
        read_response(&bytes, 7, &Query::new());
    }

    #[test]
    fn spoiled_queries_are_read_or_refused(at in 0..64_usize, byte: u8, length in 0..64_usize) {
        let mut message = query(RecordType::A);
        message.edns = Some(Edns::new());
        let mut bytes = message.to_vec().unwrap();
        let size = bytes.len();
        bytes[at % size] = byte;
        bytes.truncate(size - length % size);
        if let Ok(request) = Request::read(&bytes) {
            request.response(addresses(3), Transport::Udp);
        }
    }
}
