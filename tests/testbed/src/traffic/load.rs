//! A number of requests, sent by several clients at once and counted.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::http::{Connection, Response, get};
use super::report::{Report, Tally};

/// What to send.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to.
    pub target: SocketAddr,
    /// The path of each request.
    pub path: String,
    /// How many in all.
    pub requests: u64,
    /// How many clients send at once, each waiting for its answer before its next request.
    pub clients: u32,
    /// Whether a client keeps one connection, or makes a new one for each request.
    pub keep_alive: bool,
    /// How many a second in all; as many as possible when none.
    pub per_second: Option<u32>,
    /// How long a request may take.
    pub timeout: Duration,
}

impl Load {
    /// Sends everything and counts. `notice` is written a line with the number of requests done
    /// after every hundredth of them.
    pub fn run(&self, notice: &mut (impl Write + Send)) -> Report {
        let started = Instant::now();
        let next = AtomicU64::new(0);
        let notice = Mutex::new(notice);
        let tallies = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.clients.max(1))
                .map(|_| scope.spawn(|| self.client(started, &next, &notice)))
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("a client does not panic"))
                .collect::<Vec<_>>()
        });
        Report::sum(tallies, started.elapsed())
    }

    fn client(
        &self,
        started: Instant,
        next: &AtomicU64,
        notice: &Mutex<&mut (impl Write + Send)>,
    ) -> Tally {
        let notice_every = (self.requests / 100).max(1);
        let mut tally = Tally::default();
        let mut connection = None;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests {
                return tally;
            }
            if let Some(rate) = self.per_second {
                let due = started + Duration::from_secs_f64(number as f64 / f64::from(rate));
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let sent = Instant::now();
            let outcome = self.request(&mut connection);
            tally.count(outcome, sent.elapsed());
            if (number + 1).is_multiple_of(notice_every) {
                let mut out = notice
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                // Nobody has to read the notices.
                let _ = writeln!(out, "{}", number + 1).and_then(|()| out.flush());
            }
        }
    }

    fn request(&self, kept: &mut Option<Connection>) -> io::Result<Response> {
        if !self.keep_alive {
            return get(self.target, &self.path, self.timeout);
        }
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(self.target, self.timeout)?,
        };
        let response = connection.get(&self.path)?;
        *kept = Some(connection);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;

    /// Answers every request as hello does; drops every connection whose number is in `refused`.
    fn serve(refused: &'static [usize]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(mut stream) = stream else { return };
                if refused.contains(&number) {
                    continue;
                }
                thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().expect("clone")).lines();
                    while let Some(Ok(line)) = lines.next() {
                        if line.is_empty() {
                            let body = r#"{"pod":"p","node":"n","client":"127.0.0.1:1"}"#;
                            let length = body.len();
                            let _ = write!(
                                stream,
                                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
                            );
                        }
                    }
                });
            }
        });
        address
    }

    fn load(target: SocketAddr, keep_alive: bool) -> Load {
        Load {
            target,
            path: "/".to_owned(),
            requests: 50,
            clients: 3,
            keep_alive,
            per_second: None,
            timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn every_request_is_counted_once_on_new_and_on_kept_connections() {
        let target = serve(&[]);
        for keep_alive in [false, true] {
            let mut notices = Vec::new();
            let report = load(target, keep_alive).run(&mut notices);
            assert_eq!((report.ok, report.failed), (50, 0), "{report:?}");
            assert_eq!(report.answers.len(), 1);
            assert_eq!(report.answers[0].count, 50);
            assert_eq!(report.answers[0].client, "127.0.0.1");
            assert_eq!(notices.iter().filter(|byte| **byte == b'\n').count(), 50);
        }
    }

    #[test]
    fn a_dropped_connection_is_a_failed_request_with_its_cause() {
        let report = load(serve(&[4, 9]), false).run(&mut io::sink());
        assert_eq!((report.ok, report.failed), (48, 2), "{report:?}");
        assert_eq!(report.errors.values().sum::<u64>(), 2);
    }
}
