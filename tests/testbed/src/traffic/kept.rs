//! Connections that are kept whatever happens, and what became of each.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Connection;
use super::report::Answer;

/// Connections to be opened once, each of which sends one request after the other.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Where to.
    pub target: SocketAddr,
    /// How many.
    pub connections: u32,
    /// The pause between an answer and the next request.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// What became of all connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptReport {
    /// Each of them.
    pub connections: Vec<KeptConnection>,
}

/// What became of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptConnection {
    /// The pod at its other end; empty if it was never opened.
    pub pod: String,
    /// That pod's node.
    pub node: String,
    /// This end, as that pod sees it.
    pub client: String,
    /// Requests answered in full, by that pod.
    pub answers: u64,
    /// Why it ended while it was still wanted.
    pub end: Option<End>,
    /// When that was seen, in milliseconds since all connections were open.
    pub ended_ms: u64,
    /// The longest that an answer took, in milliseconds.
    pub longest_ms: u64,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Its other end closed it between two requests.
    Closed,
    /// It was reset.
    Reset,
    /// A request had no answer in time.
    Stalled,
    /// Anything else: never opened, or an answer from somebody else.
    Other(String),
}

impl Kept {
    /// Opens all connections, says in a line to `notice` that each has had an answer or has ended, and
    /// keeps them until `until` ends.
    ///
    /// # Errors
    /// Nothing can be written to `notice`.
    pub fn run(&self, until: impl Read + Send, mut notice: impl Write) -> io::Result<KeptReport> {
        let is_over = AtomicBool::new(false);
        let opened: Vec<_> = (0..self.connections)
            .map(|_| Connection::open(self.target, self.timeout))
            .collect();
        // Whose a connection is shows in its first answer only.
        let known = Barrier::new(opened.len() + 1);
        let connections = thread::scope(|scope| {
            let kept: Vec<_> = opened
                .into_iter()
                .map(|opened| scope.spawn(|| self.keep(opened, &is_over, &known)))
                .collect();
            known.wait();
            let said = writeln!(notice, "open").and_then(|()| notice.flush());
            // Whatever its end looks like, it is the end.
            let _ = io::copy(&mut { until }, &mut io::sink());
            is_over.store(true, Ordering::Relaxed);
            let kept = kept
                .into_iter()
                .map(|kept| kept.join().expect("keeping a connection does not panic"));
            let kept = kept.collect();
            said.map(|()| kept)
        })?;
        Ok(KeptReport { connections })
    }

    fn keep(
        &self,
        opened: io::Result<Connection>,
        is_over: &AtomicBool,
        known: &Barrier,
    ) -> KeptConnection {
        let mut kept = KeptConnection::default();
        let first = opened.map_err(|error| End::of(&error)).and_then(|mut one| {
            kept.ask(&mut one)?;
            Ok(one)
        });
        known.wait();
        let begun = Instant::now();
        let ended = first.and_then(|mut connection| {
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(self.interval);
                kept.ask(&mut connection)?;
            }
            Ok(())
        });
        kept.end = ended.err();
        if kept.end.is_some() {
            kept.ended_ms = milliseconds(begun.elapsed());
        }
        kept
    }
}

impl KeptConnection {
    /// Sends one request and waits for its answer.
    fn ask(&mut self, connection: &mut Connection) -> Result<(), End> {
        let asked = Instant::now();
        let answer = connection.get("/");
        self.longest_ms = self.longest_ms.max(milliseconds(asked.elapsed()));
        self.count(&answer.map_err(|error| End::of(&error))?.body)
    }

    fn count(&mut self, body: &[u8]) -> Result<(), End> {
        let answer: Answer =
            serde_json::from_slice(body).map_err(|error| End::Other(error.to_string()))?;
        if self.answers > 0 && answer.pod != self.pod {
            return Err(End::Other(format!(
                "{} answered for {}",
                answer.pod, self.pod
            )));
        }
        self.pod = answer.pod;
        self.node = answer.node;
        self.client = answer.client;
        self.answers += 1;
        Ok(())
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl End {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Stalled,
            _ => Self::Other(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    const CONNECTIONS: u32 = 3;

    /// Answers `answers` requests on each connection, then closes it; `ended` goes with the last.
    fn serve(answers: usize, ended: Option<UnixStream>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            let streams = listener.incoming().map_while(Result::ok);
            let served: Vec<_> = streams
                .take(CONNECTIONS as usize)
                .map(|stream| thread::spawn(move || answer(stream, answers)))
                .collect();
            for one in served {
                one.join().expect("answering does not panic");
            }
            drop(ended);
        });
        address
    }

    fn answer(mut stream: TcpStream, answers: usize) {
        let lines = BufReader::new(stream.try_clone().expect("clone")).lines();
        let requests = lines.map_while(Result::ok).filter(|line| line.is_empty());
        for _ in requests.take(answers) {
            let body = r#"{"pod":"p","node":"n","client":"127.0.0.1:1"}"#;
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            );
        }
    }

    fn kept(target: SocketAddr) -> Kept {
        Kept {
            target,
            connections: CONNECTIONS,
            interval: Duration::from_millis(1),
            timeout: Duration::from_secs(5),
        }
    }

    /// Says when a test has read that all connections are open.
    struct Notice(Option<UnixStream>);

    impl Write for Notice {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.take();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn connection_that_its_server_closes_has_ended_after_its_answers() {
        let (until, other) = UnixStream::pair().expect("a pair");
        let report = kept(serve(2, Some(other))).run(until, io::sink());
        for connection in report.expect("a report").connections {
            // What closes with a request unread resets.
            let is_ended = matches!(connection.end, None | Some(End::Closed | End::Reset));
            assert!(is_ended && connection.answers == 2, "{connection:?}");
        }
    }

    #[test]
    fn connections_that_are_kept_to_the_end_have_not_ended() {
        let (until, other) = UnixStream::pair().expect("a pair");
        let report = kept(serve(usize::MAX, None)).run(until, Notice(Some(other)));
        for connection in report.expect("a report").connections {
            assert_eq!(connection.end, None);
        }
    }
}
