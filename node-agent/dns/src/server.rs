//! The sockets: queries in, answers out, over UDP and TCP (RFC 1035 §4.2, RFC 7766).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{Record, RecordType},
};
use ipnetwork::IpNetwork;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use crate::{
    answer::{ANSWERS_MAX, Answer, Reply},
    counters::{Counter, Counters},
    message::{Request, Transport, Unanswered},
    upstream::Upstream,
    zone::Zones,
};

/// Connections at a time; each may ask many questions.
const CONNECTIONS_MAX: usize = 512;
/// How long a connection may be silent (RFC 7766 §6.2.3: a few seconds).
const IDLE_MAX: Duration = Duration::from_secs(10);
const CONNECTIONS_WAITING: i32 = 256;
/// A query is short; what is longer is cut, and then no query.
const QUERY_MAX: usize = 4_096;

/// What all sockets answer from.
pub(crate) struct Resolver {
    pub(crate) zones: RwLock<Zones>,
    pub(crate) upstream: Upstream,
    pub(crate) counters: Arc<Counters>,
    /// Who may ask besides pods: this node.
    pub(crate) node: Vec<IpAddr>,
    connections: Semaphore,
}

/// A socket of each transport at one address. Which VPC's names it answers is its alone.
pub(crate) struct Sockets {
    vpc: u32,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Opens them. Another process may have the same ones meanwhile: whoever follows this one binds
    /// them before it ends.
    ///
    /// # Errors
    /// The address is not this node's, or somebody else has the port.
    pub(crate) fn open(vpc: u32, at: SocketAddr) -> io::Result<Self> {
        let udp = bound(at, SockType::Datagram)?;
        let tcp = bound(at, SockType::Stream)?;
        listen(&tcp, Backlog::new(CONNECTIONS_WAITING)?)?;
        Ok(Self {
            vpc,
            udp: UdpSocket::from_std(udp.into())?,
            tcp: TcpListener::from_std(tcp.into())?,
        })
    }

    /// Answers, for ever.
    pub(crate) async fn serve(self, resolver: Arc<Resolver>) {
        let Self { vpc, udp, tcp } = self;
        tokio::join!(
            datagrams(Arc::new(udp), vpc, Arc::clone(&resolver)),
            connections(tcp, vpc, resolver)
        );
    }
}

fn bound(at: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let opened = socket(family, kind, flags, None)?;
    setsockopt(&opened, sockopt::ReuseAddr, &true)?;
    setsockopt(&opened, sockopt::ReusePort, &true)?;
    if at.is_ipv6() {
        setsockopt(&opened, sockopt::Ipv6V6Only, &true)?;
    }
    bind(opened.as_raw_fd(), &SockaddrStorage::from(at))?;
    Ok(opened)
}

async fn datagrams(socket: Arc<UdpSocket>, vpc: u32, resolver: Arc<Resolver>) {
    let mut buffer = vec![0; QUERY_MAX];
    loop {
        let (size, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error about an answer that nobody waits for any more.
            Err(error) => {
                tracing::debug!(%error, "a datagram could not be received");
                continue;
            }
        };
        if !resolver.may_ask(client.ip()) {
            resolver.counters.add(Counter::Strangers);
            continue;
        }
        resolver.counters.add(Counter::QueriesUdp);
        let step = resolver.begin(vpc, &buffer[..size], Transport::Udp);
        match step {
            Step::Nothing => {}
            Step::Response(bytes) => send(&socket, &bytes, client).await,
            Step::Ask(question) => {
                let (socket, resolver) = (Arc::clone(&socket), Arc::clone(&resolver));
                tokio::spawn(async move {
                    let bytes = resolver.finish(question, Transport::Udp).await;
                    send(&socket, &bytes, client).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, %error, "an answer could not be sent");
    }
}

async fn connections(listener: TcpListener, vpc: u32, resolver: Arc<Resolver>) {
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !resolver.may_ask(client.ip()) {
            resolver.counters.add(Counter::Strangers);
            continue;
        }
        let resolver = Arc::clone(&resolver);
        tokio::spawn(async move {
            let Ok(_permit) = resolver.connections.try_acquire() else {
                resolver.counters.add(Counter::Overloaded);
                return;
            };
            if let Err(error) = converse(stream, vpc, &resolver).await {
                tracing::debug!(%client, %error, "a connection broke");
            }
        });
    }
}

/// Answers one question after the other, until the client is silent for too long.
async fn converse(mut stream: TcpStream, vpc: u32, resolver: &Resolver) -> io::Result<()> {
    loop {
        let Ok(size) = timeout(IDLE_MAX, stream.read_u16()).await else {
            return Ok(());
        };
        let size = match size {
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; usize::from(size)];
        if timeout(IDLE_MAX, stream.read_exact(&mut bytes))
            .await
            .is_err()
        {
            return Ok(());
        }
        resolver.counters.add(Counter::QueriesTcp);
        let response = match resolver.begin(vpc, &bytes, Transport::Tcp) {
            Step::Nothing => return Ok(()),
            Step::Response(response) => response,
            Step::Ask(question) => resolver.finish(question, Transport::Tcp).await,
        };
        let size = u16::try_from(response.len()).map_err(io::Error::other)?;
        let mut framed = size.to_be_bytes().to_vec();
        framed.extend_from_slice(&response);
        match timeout(IDLE_MAX, stream.write_all(&framed)).await {
            Ok(written) => written?,
            Err(_) => return Ok(()),
        }
    }
}

/// What a message that came leads to.
enum Step {
    Nothing,
    Response(Vec<u8>),
    Ask(Box<Question>),
}

/// What others are to be asked.
struct Question {
    request: Request,
    query: Query,
    aliases: Vec<Record>,
}

impl Resolver {
    pub(crate) fn new(upstream: Upstream, counters: Arc<Counters>, node: Vec<IpAddr>) -> Self {
        Self {
            zones: RwLock::default(),
            upstream,
            counters,
            node,
            connections: Semaphore::new(CONNECTIONS_MAX),
        }
    }

    /// Pods may, and the node itself; a resolver that is open to all is a weapon (RFC 5358).
    fn may_ask(&self, client: IpAddr) -> bool {
        if client.is_loopback() || self.node.contains(&client) {
            return true;
        }
        let zones = self.zones.read().unwrap_or_else(PoisonError::into_inner);
        let ranges = zones.settings.iter().flat_map(|known| &known.pod_ranges);
        ranges
            .into_iter()
            .any(|range: &IpNetwork| range.contains(client))
    }

    /// The answer to a question of this node's own.
    pub(crate) async fn look_up(&self, vpc: u32, query: Query) -> Reply {
        let answer = {
            let zones = self.zones.read().unwrap_or_else(PoisonError::into_inner);
            zones.answer(vpc, &query)
        };
        match answer {
            Answer::Here(reply) => reply,
            Answer::Elsewhere { name, aliases } => {
                let mut asked = query.clone();
                asked.set_name(name);
                self.ask(&Request::new(query), &asked, aliases).await
            }
        }
    }

    /// As far as it goes without waiting.
    fn begin(&self, vpc: u32, bytes: &[u8], transport: Transport) -> Step {
        let request = match Request::read(bytes) {
            Ok(request) => request,
            Err(Unanswered::Ignored) => {
                self.counters.add(Counter::Malformed);
                return Step::Nothing;
            }
            Err(Unanswered::Refused(response, code)) => {
                self.counters.add_response(code);
                return Step::Response(response);
            }
        };
        let answer = {
            let zones = self.zones.read().unwrap_or_else(PoisonError::into_inner);
            zones.answer(vpc, &request.query)
        };
        match answer {
            Answer::Here(reply) => {
                self.counters.add(Counter::Cluster);
                Step::Response(self.respond(&request, reply, transport))
            }
            Answer::Elsewhere { name, aliases } => {
                if !request.wants_recursion() {
                    // Who wants to know only what is known here is told the aliases, or nothing.
                    let mut reply = Reply::error(ResponseCode::Refused);
                    if !aliases.is_empty() {
                        reply.code = ResponseCode::NoError;
                        reply.is_authoritative = true;
                        reply.answers = aliases;
                    }
                    return Step::Response(self.respond(&request, reply, transport));
                }
                let mut query = request.query.clone();
                query.set_name(name);
                Step::Ask(Box::new(Question {
                    request,
                    query,
                    aliases,
                }))
            }
        }
    }

    async fn finish(&self, question: Box<Question>, transport: Transport) -> Vec<u8> {
        let Question {
            request,
            query,
            aliases,
        } = *question;
        let reply = self.ask(&request, &query, aliases).await;
        self.respond(&request, reply, transport)
    }

    /// What others say, after the aliases that led to them.
    async fn ask(&self, request: &Request, query: &Query, aliases: Vec<Record>) -> Reply {
        let found = self.upstream.resolve(request, query).await;
        let is_alias = !aliases.is_empty();
        let mut answers = aliases;
        answers.extend(found.answers);
        Reply {
            answers,
            is_authoritative: is_alias,
            is_proven: found.is_proven && !is_alias,
            ..found
        }
    }

    fn respond(&self, request: &Request, mut reply: Reply, transport: Transport) -> Vec<u8> {
        if matches!(request.query.query_type(), RecordType::A | RecordType::AAAA) {
            reply.rotate(rand::random());
        }
        reply.answers.truncate(ANSWERS_MAX);
        self.counters.add_response(reply.code);
        let (bytes, is_cut) = request.response(reply, transport);
        if is_cut {
            self.counters.add(Counter::Truncated);
        }
        bytes
    }
}
