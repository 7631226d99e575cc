use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
};

use hickory_proto::{
    op::MessageType,
    rr::{Name, RData, Record, RecordType, rdata::SOA},
};
use tokio::net::TcpListener;

use super::*;
use crate::message::Transport;

/// A server that answers as it is told, on real sockets.
struct Script {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

type Answer = fn(Transport, &mut Message) -> bool;

impl Script {
    /// `answer` turns the query into the response, and says whether it is sent at all.
    async fn start(answer: Answer) -> Self {
        // The same port for both may be taken: another is tried.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let respond = move |bytes: &[u8], transport| {
            count.fetch_add(1, Ordering::SeqCst);
            let mut message = Message::from_vec(bytes).unwrap();
            message.metadata.message_type = MessageType::Response;
            answer(transport, &mut message).then(|| message.to_vec().unwrap())
        };
        let respond_tcp = respond.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4_096];
            while let Ok((size, client)) = udp.recv_from(&mut buffer).await {
                if let Some(response) = respond(&buffer[..size], Transport::Udp) {
                    udp.send_to(&response, client).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let size = stream.read_u16().await.unwrap();
                let mut bytes = vec![0; usize::from(size)];
                stream.read_exact(&mut bytes).await.unwrap();
                if let Some(response) = respond_tcp(&bytes, Transport::Tcp) {
                    let size = u16::try_from(response.len()).unwrap();
                    stream.write_u16(size).await.unwrap();
                    stream.write_all(&response).await.unwrap();
                }
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn upstream(servers: &[&Script]) -> Upstream {
    let servers = servers.iter().map(|script| script.address).collect();
    Upstream::new(Servers::Fixed(servers), Arc::default())
}

fn query() -> Query {
    let name = Name::from_ascii("www.example.").unwrap();
    Query::query(name, RecordType::A)
}

async fn resolve(upstream: &Upstream) -> Reply {
    upstream.resolve(&Request::new(query()), &query()).await
}

fn address(message: &mut Message, last: u8) {
    let data = RData::A(Ipv4Addr::new(192, 0, 2, last).into());
    let name = message.queries[0].name().clone();
    message.add_answer(Record::from_rdata(name, 30, data));
}

fn answers(_: Transport, message: &mut Message) -> bool {
    address(message, 1);
    true
}

fn is_silent(_: Transport, _: &mut Message) -> bool {
    false
}

fn fails(_: Transport, message: &mut Message) -> bool {
    message.metadata.response_code = ResponseCode::ServFail;
    true
}

#[tokio::test]
async fn answer_is_kept_and_its_time_counts_down() {
    let server = Script::start(answers).await;
    let upstream = upstream(&[&server]);
    let first = resolve(&upstream).await;
    assert_eq!(
        (first.code, first.answers[0].ttl),
        (ResponseCode::NoError, 30)
    );
    assert!(!first.is_authoritative);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    let second = resolve(&upstream).await;
    assert_eq!(second.answers[0].ttl, 20);
    assert_eq!(server.asked(), 1);
    assert_eq!(upstream.counters.get(Counter::CacheHits), 1);
    tokio::time::advance(Duration::from_secs(20)).await;
    tokio::time::resume();
    assert_eq!(resolve(&upstream).await.answers[0].ttl, 30);
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn that_there_is_no_such_name_is_kept_as_the_zone_says() {
    let server = Script::start(|_, message| {
        message.metadata.response_code = ResponseCode::NXDomain;
        let name = Name::from_ascii("example.").unwrap();
        let start = RData::SOA(SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, 7));
        message.add_authority(Record::from_rdata(name, 3_600, start));
        true
    })
    .await;
    let upstream = upstream(&[&server]);
    for _ in 0..3 {
        assert_eq!(resolve(&upstream).await.code, ResponseCode::NXDomain);
    }
    assert_eq!(server.asked(), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(7)).await;
    tokio::time::resume();
    resolve(&upstream).await;
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn cut_answer_is_asked_for_again_over_tcp() {
    let server = Script::start(|transport, message| {
        match transport {
            Transport::Udp => message.metadata.truncation = true,
            Transport::Tcp => (0..200).for_each(|last| address(message, last)),
        }
        true
    })
    .await;
    let upstream = upstream(&[&server]);
    assert_eq!(resolve(&upstream).await.answers.len(), 200);
    assert_eq!(upstream.counters.get(Counter::UpstreamTruncated), 1);
}

#[tokio::test]
async fn next_server_is_asked_when_one_is_silent_or_fails() {
    for first in [is_silent as Answer, fails] {
        let (first, second) = (Script::start(first).await, Script::start(answers).await);
        let upstream = upstream(&[&first, &second]);
        let reply = resolve(&upstream).await;
        assert_eq!(
            (reply.code, reply.answers.len()),
            (ResponseCode::NoError, 1)
        );
        assert_eq!((first.asked(), second.asked()), (1, 1));
    }
}

#[tokio::test]
async fn server_failure_when_nobody_answers_within_a_resolvers_patience() {
    let server = Script::start(is_silent).await;
    let silent = upstream(&[&server]);
    let began = Instant::now();
    assert_eq!(resolve(&silent).await.code, ResponseCode::ServFail);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(
        silent.counters.get(Counter::UpstreamTimeouts),
        ROUNDS as u64
    );
    assert_eq!(resolve(&upstream(&[])).await.code, ResponseCode::ServFail);
}

#[tokio::test]
async fn answers_to_other_questions_are_passed_over() {
    let server = Script::start(|_, message| {
        message.metadata.id = message.metadata.id.wrapping_add(1);
        address(message, 66);
        true
    })
    .await;
    let upstream = upstream(&[&server]);
    let reply = resolve(&upstream).await;
    assert_eq!(
        (reply.code, reply.answers.len()),
        (ResponseCode::ServFail, 0)
    );
}

#[tokio::test]
async fn servers_are_those_the_file_names_now_without_ourselves() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    let upstream = Upstream::new(Servers::File(file.clone()), Arc::default());
    assert_eq!(upstream.servers(), []);
    fs::write(&file, "nameserver 192.0.2.1\nnameserver 10.96.0.10\n").unwrap();
    upstream.set_own(vec![[10, 96, 0, 10].into()]);
    assert_eq!(upstream.servers(), ["192.0.2.1:53".parse().unwrap()]);
    fs::write(&file, "nameserver 2001:db8::1\n").unwrap();
    let later = SystemTime::now() + Duration::from_secs(1);
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_modified(later)
        .unwrap();
    assert_eq!(upstream.servers(), ["[2001:db8::1]:53".parse().unwrap()]);
    // It is being written anew.
    fs::remove_file(&file).unwrap();
    assert_eq!(upstream.servers().len(), 1);
}
