use std::net::Ipv4Addr;

use hickory_proto::rr::{
    Name, Record,
    rdata::{CNAME, SOA},
};

use super::*;

fn key(name: &str) -> Key {
    let name = Name::from_ascii(name).unwrap();
    Key::new(&Query::query(name, RecordType::A), false, false)
}

fn record(ttl: u32, data: RData) -> Record {
    Record::from_rdata(Name::from_ascii("www.example.").unwrap(), ttl, data)
}

fn address(ttl: u32) -> Record {
    record(ttl, RData::A(Ipv4Addr::new(192, 0, 2, 1).into()))
}

fn start(ttl: u32, minimum: u32) -> Record {
    let name = Name::from_ascii("example.").unwrap();
    record(
        ttl,
        RData::SOA(SOA::new(name.clone(), name, 1, 2, 3, 4, minimum)),
    )
}

fn reply(code: ResponseCode, answers: Vec<Record>, authorities: Vec<Record>) -> Reply {
    Reply {
        code,
        answers,
        authorities,
        ..Reply::default()
    }
}

#[test]
fn answers_are_kept_as_long_as_their_shortest_part_says() {
    let alias = || record(9, RData::CNAME(CNAME(Name::root())));
    for (reply, seconds) in [
        (
            reply(
                ResponseCode::NoError,
                vec![address(60), address(30)],
                vec![],
            ),
            Some(30),
        ),
        (
            reply(ResponseCode::NoError, vec![address(86_400)], vec![]),
            Some(TTL_MAX),
        ),
        (
            reply(ResponseCode::NoError, vec![address(0)], vec![]),
            Some(0),
        ),
        (
            reply(ResponseCode::NXDomain, vec![], vec![start(100, 20)]),
            Some(20),
        ),
        (
            reply(ResponseCode::NXDomain, vec![], vec![start(10, 20)]),
            Some(10),
        ),
        (
            reply(ResponseCode::NXDomain, vec![], vec![start(9_000, 9_000)]),
            Some(300),
        ),
        (
            reply(ResponseCode::NoError, vec![alias()], vec![start(100, 20)]),
            Some(9),
        ),
        (reply(ResponseCode::NoError, vec![], vec![]), None),
        (reply(ResponseCode::NXDomain, vec![], vec![]), None),
        (reply(ResponseCode::ServFail, vec![], vec![]), Some(1)),
        (reply(ResponseCode::Refused, vec![], vec![]), Some(1)),
    ] {
        assert_eq!(lifetime(&reply), seconds, "{reply:?}");
    }
}

#[test]
fn time_to_live_counts_down_and_ends() {
    let mut cache = Cache::default();
    let taken = Instant::now();
    let given = reply(
        ResponseCode::NoError,
        vec![address(30), address(60)],
        vec![],
    );
    cache.insert(key("www.example."), &given, taken);
    let mut after = |seconds| {
        let kept = cache.get(&key("WWW.example."), taken + Duration::from_secs(seconds))?;
        Some(
            kept.answers
                .iter()
                .map(|record| record.ttl)
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(after(0), Some(vec![30, 60]));
    assert_eq!(after(29), Some(vec![1, 31]));
    assert_eq!(after(30), None);
    assert_eq!(cache.len(), 0);
}

#[test]
fn questions_with_other_wishes_have_other_answers() {
    let mut cache = Cache::default();
    let now = Instant::now();
    let given = reply(ResponseCode::NoError, vec![address(30)], vec![]);
    cache.insert(key("www.example."), &given, now);
    let query = Query::query(Name::from_ascii("www.example.").unwrap(), RecordType::A);
    assert!(cache.get(&Key::new(&query, true, false), now).is_none());
    assert!(cache.get(&Key::new(&query, false, true), now).is_none());
    assert!(cache.get(&Key::new(&query, false, false), now).is_some());
}

#[test]
fn cache_is_bounded_and_drops_what_nobody_asks_for() {
    let mut cache = Cache::default();
    let now = Instant::now();
    let given = reply(ResponseCode::NoError, vec![address(30)], vec![]);
    for index in 0..3 * ANSWERS_MAX {
        cache.insert(key(&format!("n{index}.example.")), &given, now);
        assert!(cache.get(&key("n0.example."), now).is_some(), "{index}");
        assert!(cache.len() <= ANSWERS_MAX);
    }
    assert!(cache.get(&key("n1.example."), now).is_none());
    let large = reply(
        ResponseCode::NoError,
        vec![address(30); RECORDS_MAX + 1],
        vec![],
    );
    cache.insert(key("large.example."), &large, now);
    assert!(cache.get(&key("large.example."), now).is_none());
}
