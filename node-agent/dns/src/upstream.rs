//! Asking others about names that are not the cluster's.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use fairlead_config::ResolvConf;
use hickory_proto::op::{Message, Query, ResponseCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    answer::Reply,
    cache::{Cache, Key},
    counters::{Counter, Counters},
    message::{Request, question, read_response},
};

/// How long one server may take.
const ANSWER_MAX: Duration = Duration::from_millis(1_500);
/// How long all of them may: resolvers give up after five seconds (resolv.conf(5), `timeout`).
const ALL_ANSWERS_MAX: Duration = Duration::from_millis(4_500);
/// How often each server is asked.
const ROUNDS: usize = 2;
/// Questions that wait for others at a time. Each has a socket of its own, so that its port, too, has
/// to be guessed by whoever would answer in another's name (RFC 5452 §4.5).
const QUESTIONS_MAX: usize = 512;
const PORT: u16 = 53;
/// Some servers send more than they were told to.
const DATAGRAM_MAX: usize = 4_096;

/// Who is asked.
#[derive(Debug)]
pub(crate) enum Servers {
    /// Always these.
    Fixed(Vec<SocketAddr>),
    /// Those that a file in the form of resolv.conf(5) names now.
    File(PathBuf),
}

/// Others, and what they answered before.
pub(crate) struct Upstream {
    servers: Servers,
    /// Never asked: they are ourselves.
    own: Mutex<Vec<IpAddr>>,
    /// The file as it was last, by the time it was changed.
    read: Mutex<Option<(SystemTime, Vec<SocketAddr>)>>,
    cache: Mutex<Cache>,
    permits: Semaphore,
    counters: Arc<Counters>,
}

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("cannot be asked")]
    Io(#[from] io::Error),
    #[error("did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("answered something else")]
    Unreadable,
}

impl Upstream {
    pub(crate) fn new(servers: Servers, counters: Arc<Counters>) -> Self {
        Self {
            servers,
            own: Mutex::default(),
            read: Mutex::default(),
            cache: Mutex::default(),
            permits: Semaphore::new(QUESTIONS_MAX),
            counters,
        }
    }

    /// Says which addresses are the cluster's own DNS.
    pub(crate) fn set_own(&self, own: Vec<IpAddr>) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = own;
    }

    /// How many answers are kept.
    pub(crate) fn cached(&self) -> usize {
        self.cache().len()
    }

    /// Who is asked now, the first first.
    pub(crate) fn servers(&self) -> Vec<SocketAddr> {
        let servers = match &self.servers {
            Servers::Fixed(servers) => servers.clone(),
            Servers::File(path) => self.of_file(path),
        };
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let others = servers.into_iter();
        others
            .filter(|server| !own.contains(&server.ip()))
            .collect()
    }

    fn of_file(&self, path: &Path) -> Vec<SocketAddr> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(changed) = fs::metadata(path).and_then(|file| file.modified()) else {
            return read
                .as_ref()
                .map(|(_, servers)| servers.clone())
                .unwrap_or_default();
        };
        if let Some((known, servers)) = &*read
            && *known == changed
        {
            return servers.clone();
        }
        let servers: Vec<SocketAddr> = ResolvConf::read(path)
            .unwrap_or_default()
            .nameservers
            .into_iter()
            .map(|address| SocketAddr::new(address, PORT))
            .collect();
        *read = Some((changed, servers.clone()));
        servers
    }

    /// The answer to a question: what is kept, or what a server says now. SERVFAIL if none does.
    pub(crate) async fn resolve(&self, request: &Request, query: &Query) -> Reply {
        let key = Key::new(query, request.wants_signatures, request.checks_itself());
        if let Some(reply) = self.kept(&key) {
            return reply;
        }
        let reply = self.ask(request, query).await;
        self.cache().insert(key, &reply, now());
        reply
    }

    fn kept(&self, key: &Key) -> Option<Reply> {
        let reply = self.cache().get(key, now())?;
        self.counters.add(Counter::CacheHits);
        Some(reply)
    }

    async fn ask(&self, request: &Request, query: &Query) -> Reply {
        let Ok(_permit) = self.permits.try_acquire() else {
            self.counters.add(Counter::Overloaded);
            return Reply::error(ResponseCode::ServFail);
        };
        self.counters.add(Counter::Forwarded);
        let servers = self.servers();
        let deadline = Instant::now() + ALL_ANSWERS_MAX;
        let mut worst = Reply::error(ResponseCode::ServFail);
        for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
            let until = deadline.min(Instant::now() + ANSWER_MAX);
            if until <= Instant::now() {
                break;
            }
            match self.ask_one(*server, request, query, until).await {
                Ok(message) if is_answer(message.response_code) => return message.into(),
                // Another may know, or be willing.
                Ok(message) => {
                    self.counters.add(Counter::UpstreamErrors);
                    worst.code = message.response_code;
                }
                Err(error) => {
                    self.counters.add(match error {
                        AskError::Timeout(_) => Counter::UpstreamTimeouts,
                        AskError::Io(_) | AskError::Unreadable => Counter::UpstreamErrors,
                    });
                    tracing::debug!(%server, %error, "a server gave no answer");
                }
            }
        }
        worst
    }

    async fn ask_one(
        &self,
        server: SocketAddr,
        request: &Request,
        query: &Query,
        deadline: Instant,
    ) -> Result<Message, AskError> {
        let id = rand::random();
        let bytes = question(id, request, query);
        let message = timeout_at(deadline, over_udp(server, &bytes, id, query)).await??;
        if !message.truncation {
            return Ok(message);
        }
        self.counters.add(Counter::UpstreamTruncated);
        timeout(ANSWER_MAX, over_tcp(server, &bytes, id, query)).await?
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As tests pause it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Whether another server need not be asked.
fn is_answer(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

async fn over_udp(
    server: SocketAddr,
    bytes: &[u8],
    id: u16,
    query: &Query,
) -> Result<Message, AskError> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; DATAGRAM_MAX];
    loop {
        let size = socket.recv(&mut buffer).await?;
        // What does not fit the question may be somebody's guess: the answer is still to come.
        if let Some(message) = read_response(&buffer[..size], id, query) {
            return Ok(message);
        }
    }
}

async fn over_tcp(
    server: SocketAddr,
    bytes: &[u8],
    id: u16,
    query: &Query,
) -> Result<Message, AskError> {
    let mut stream = TcpStream::connect(server).await?;
    let size = u16::try_from(bytes.len()).map_err(|_| AskError::Unreadable)?;
    let mut framed = size.to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let size = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(size)];
    stream.read_exact(&mut buffer).await?;
    read_response(&buffer, id, query).ok_or(AskError::Unreadable)
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
