//! The process on real sockets: what it answers, what its end and the agent's end change.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use fairlead_dns::{
    Changes, Keeper,
    process::{Config, Listen},
};
use fairlead_proto::node::{
    ClusterDns, DataplaneState, Delta, DnsEndpoint, DnsEndpoints, DnsKey, DnsName, Parameters,
};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(10);

struct Node {
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Node {
    fn new() -> Self {
        // Free for a moment ago; the process may share it with nobody but another of its kind.
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self {
            folder: tempfile::tempdir().unwrap(),
            address: socket.local_addr().unwrap(),
        }
    }

    fn config(&self) -> Config {
        Config {
            socket: self.folder.path().join("dns.sock"),
            state: self.folder.path().join("dns.bin"),
            listen: vec![Listen {
                vpc: 0,
                address: self.address,
            }],
            node: vec![],
            upstreams: vec![],
            resolv_conf: self.folder.path().join("resolv.conf"),
        }
    }

    fn keeper(&self) -> Keeper {
        Keeper::start(
            env!("CARGO_BIN_EXE_fairlead-dns-process").into(),
            self.config(),
        )
    }

    fn pid(&self) -> Option<Pid> {
        let socket = std::os::unix::net::UnixStream::connect(self.config().socket).ok()?;
        let peer =
            nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials);
        Some(Pid::from_raw(peer.ok()?.pid()))
    }

    fn exchange_udp(&self, message: &Message) -> Option<Message> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        socket
            .send_to(&message.to_vec().unwrap(), self.address)
            .unwrap();
        let mut buffer = [0; 4_096];
        let size = socket.recv(&mut buffer).ok()?;
        Message::from_vec(&buffer[..size]).ok()
    }

    fn exchange_tcp(&self, messages: &[Message]) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for message in messages {
            let bytes = message.to_vec().unwrap();
            stream
                .write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes())
                .unwrap();
            stream.write_all(&bytes).unwrap();
        }
        let read = |_: &Message| {
            let mut size = [0; 2];
            stream.read_exact(&mut size).unwrap();
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(size))];
            stream.read_exact(&mut bytes).unwrap();
            Message::from_vec(&bytes).unwrap()
        };
        messages.iter().map(read).collect()
    }

    /// Lets go of the process and ends it.
    async fn end(&self, keeper: Keeper) {
        drop(keeper);
        Keeper::stop(&self.config().socket).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        // Its way in may be closed a moment after the connection.
        while let Some(pid) = self.pid() {
            assert!(Instant::now() < deadline, "{pid} still runs");
            tokio::task::yield_now().await;
        }
    }

    /// Asks until the answer has so many addresses, or none and `code`.
    async fn wait_for(&self, name: &str, count: usize, code: ResponseCode) -> Message {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.exchange_udp(&query(name));
            if let Some(answer) = &answer
                && (answer.answers.len(), answer.response_code) == (count, code)
            {
                return answer.clone();
            }
            assert!(Instant::now() < deadline, "{name}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            // Gone already is as well.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

fn query(name: &str) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

fn name(name: &str, address: [u8; 4]) -> DnsName {
    DnsName {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        addresses: vec![address.to_vec().into()],
        ..DnsName::default()
    }
}

fn many(count: u32) -> DnsName {
    let endpoint = |last: u32| DnsEndpoint {
        address: (0x0af4_0000 + last).to_be_bytes().to_vec().into(),
        hostname: String::new(),
    };
    DnsName {
        addresses: vec![],
        endpoints: vec![DnsEndpoints {
            endpoints: (1..=count).map(endpoint).collect(),
            ports: vec![],
        }],
        ..name("many", [0; 4])
    }
}

fn whole() -> Changes {
    Changes::whole(&mut DataplaneState {
        parameters: Some(Parameters {
            cluster_cidrs: vec!["127.0.0.0/8".to_owned()],
            dns: Some(ClusterDns {
                domain: "cluster.local".to_owned(),
                addresses: vec![vec![10, 96, 0, 10].into()],
                service_cidrs: vec!["10.96.0.0/12".to_owned()],
            }),
            ..Parameters::default()
        }),
        dns_names: vec![name("web", [10, 96, 0, 7]), many(300)],
        ..DataplaneState::default()
    })
}

async fn wait_until_kept(path: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} is not there", path.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const WEB: &str = "web.shop.svc.cluster.local.";
const API: &str = "api.shop.svc.cluster.local.";
const MANY: &str = "many.shop.svc.cluster.local.";

#[tokio::test(flavor = "multi_thread")]
async fn names_that_come_and_go_are_answered_for() {
    let node = Node::new();
    let keeper = node.keeper();
    keeper.update(whole()).unwrap();
    let answer = node.wait_for(WEB, 1, ResponseCode::NoError).await;
    assert!(answer.authoritative && answer.recursion_available);
    let mut delta = Delta {
        dns_names: vec![name("api", [10, 96, 0, 8])],
        removed_dns_names: vec![DnsKey {
            vpc: 0,
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
        }],
        ..Delta::default()
    };
    keeper.update(Changes::take_from(&mut delta)).unwrap();
    node.wait_for(API, 1, ResponseCode::NoError).await;
    node.wait_for(WEB, 0, ResponseCode::NXDomain).await;
    let mut spoiled = Delta {
        dns_names: vec![name("No", [10, 96, 0, 8])],
        ..Delta::default()
    };
    let error = keeper.update(Changes::take_from(&mut spoiled)).unwrap_err();
    assert_eq!(error.field, "dns_names[shop/No].name");
    let cluster = keeper.cluster().unwrap();
    assert_eq!(cluster.addresses, [IpAddr::from([10, 96, 0, 10])]);
    node.end(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_too_large_for_a_datagram_is_whole_over_tcp() {
    let node = Node::new();
    let keeper = node.keeper();
    keeper.update(whole()).unwrap();
    node.wait_for(WEB, 1, ResponseCode::NoError).await;
    let mut large = query(MANY);
    large.edns = Some(Edns::new());
    let cut = node.exchange_udp(&large).unwrap();
    assert!(cut.truncation && cut.answers.is_empty() && cut.edns.is_some());
    let answers = node.exchange_tcp(&[large, query(WEB)]);
    let counts: Vec<_> = answers.iter().map(|answer| answer.answers.len()).collect();
    assert_eq!(counts, [300, 1]);
    let view = keeper.view(&json!({})).await.unwrap();
    assert_eq!(view["counters"]["truncated"], 1);
    assert_eq!(view["counters"]["queries_tcp"], 2);
    assert_eq!(
        view["zones"],
        json!([{"vpc": 0, "namespaces": 0, "services": 2}])
    );
    let view = keeper.view(&json!({"name": WEB})).await.unwrap();
    assert_eq!(view["answers"], json!([format!("{WEB} 5 IN A 10.96.0.7")]));
    let error = keeper
        .view(&json!({"name": WEB, "type": "NONE7"}))
        .await
        .unwrap_err();
    assert!(error.contains("no type of records"), "{error}");
    node.end(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_process_is_started_again_and_knows_its_names() {
    let node = Node::new();
    let keeper = node.keeper();
    keeper.update(whole()).unwrap();
    node.wait_for(WEB, 1, ResponseCode::NoError).await;
    let before = node.pid().unwrap();
    kill(before, Signal::SIGKILL).unwrap();
    node.wait_for(WEB, 1, ResponseCode::NoError).await;
    assert_ne!(node.pid(), Some(before));
    node.end(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn process_outlives_its_agent_and_is_adopted_by_the_next() {
    let node = Node::new();
    let keeper = node.keeper();
    keeper.update(whole()).unwrap();
    node.wait_for(WEB, 1, ResponseCode::NoError).await;
    wait_until_kept(&node.config().state).await;
    let pid = node.pid();
    drop(keeper);
    node.wait_for(WEB, 1, ResponseCode::NoError).await;
    let next = node.keeper();
    // What it has not been told yet it has found.
    assert_eq!(next.cluster().unwrap().domain, "cluster.local");
    let deadline = Instant::now() + PATIENCE;
    while next.view(&json!({})).await.is_err() {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(node.pid(), pid);
    node.wait_for(WEB, 1, ResponseCode::NoError).await;
    node.end(next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn process_of_another_program_is_replaced_by_one_of_this() {
    let node = Node::new();
    let keeper = node.keeper();
    keeper.update(whole()).unwrap();
    node.wait_for(WEB, 1, ResponseCode::NoError).await;
    wait_until_kept(&node.config().state).await;
    let former = node.pid().unwrap();
    drop(keeper);
    let upgraded = node.folder.path().join("upgraded");
    std::fs::copy(env!("CARGO_BIN_EXE_fairlead-dns-process"), &upgraded).unwrap();
    let keeper = Keeper::start(upgraded.into(), node.config());
    let deadline = Instant::now() + PATIENCE;
    // Somebody always answers, and at last it is the new one alone.
    while kill(former, None).is_ok() {
        node.wait_for(WEB, 1, ResponseCode::NoError).await;
        assert!(Instant::now() < deadline, "{former} still runs");
    }
    node.wait_for(WEB, 1, ResponseCode::NoError).await;
    assert_ne!(node.pid(), Some(former));
    node.end(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_starts_alone_answers_from_what_was_kept() {
    let node = Node::new();
    let keeper = node.keeper();
    keeper.update(whole()).unwrap();
    wait_until_kept(&node.config().state).await;
    drop(keeper);
    kill(node.pid().unwrap(), Signal::SIGKILL).unwrap();
    let next = node.keeper();
    node.wait_for(WEB, 1, ResponseCode::NoError).await;
    node.end(next).await;
}
