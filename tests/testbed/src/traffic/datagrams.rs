//! Numbered datagrams, each of which is answered by its number, and which of them were not.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::report::{Answer, without_port};

/// Larger than any answer.
const ANSWER_BYTES_MAX: usize = 2048;

/// Flows of datagrams to hello, each from a port of its own and with numbers of its own.
#[derive(Clone, Debug)]
pub struct Datagrams {
    /// Where to.
    pub target: SocketAddr,
    /// The addresses that flows are from, in turn; the kernel chooses if there is none.
    pub from: Vec<IpAddr>,
    /// How many flows.
    pub flows: u32,
    /// How many datagrams each sends; `None`: until it is told to stop.
    pub each: Option<u64>,
    /// The time between a flow's datagrams.
    pub interval: Duration,
    /// How long answers are waited for after the last datagram.
    pub timeout: Duration,
}

/// What became of all flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramsReport {
    /// Each of them.
    pub flows: Vec<FlowReport>,
}

/// What became of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// Datagrams sent, numbered from 0.
    pub sent: u64,
    /// How many of them were answered.
    pub answered: u64,
    /// The numbers without an answer.
    pub lost: BTreeSet<u64>,
    /// Answers that came after one to a higher number.
    pub late: u64,
    /// The longest time without any answer, between the first and the last, in milliseconds.
    pub longest_silence_ms: u64,
    /// The longest that an answer took, in milliseconds.
    pub longest_ms: u64,
    /// Who answered whom, how often; in the order of their first answers.
    pub answers: Vec<Answer>,
}

/// What hello says.
#[derive(Deserialize)]
struct Body {
    pod: String,
    node: String,
    client: String,
    said: String,
}

impl Datagrams {
    /// Sends, and says in a line to `notice` when each flow has had an answer or has waited for one
    /// in vain. Without a number of datagrams it ends when `until` does.
    ///
    /// # Errors
    /// A socket cannot be opened, or nothing can be written to `notice`.
    pub fn run(
        &self,
        until: impl Read + Send,
        mut notice: impl Write,
    ) -> io::Result<DatagramsReport> {
        let is_over = AtomicBool::new(false);
        let any: IpAddr = match self.target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let from = if self.from.is_empty() {
            &[any][..]
        } else {
            &self.from
        };
        let sockets = (0..self.flows)
            .zip(from.iter().cycle())
            .map(|(_, from)| {
                let socket = UdpSocket::bind((*from, 0))?;
                socket.connect(self.target)?;
                Ok(socket)
            })
            .collect::<io::Result<Vec<_>>>()?;
        let known = Barrier::new(sockets.len() + 1);
        let flows = thread::scope(|scope| {
            let flows: Vec<_> = sockets
                .into_iter()
                .map(|socket| scope.spawn(|| Flow::new(socket).run(self, &is_over, &known)))
                .collect();
            known.wait();
            let said = writeln!(notice, "open").and_then(|()| notice.flush());
            if self.each.is_none() {
                // Whatever its end looks like, it is the end.
                let _ = io::copy(&mut { until }, &mut io::sink());
            }
            is_over.store(true, Ordering::Relaxed);
            let flows = flows
                .into_iter()
                .map(|flow| flow.join().expect("sending datagrams does not panic"));
            let flows = flows.collect();
            said.map(|()| flows)
        })?;
        Ok(DatagramsReport { flows })
    }
}

impl DatagramsReport {
    /// Datagrams sent by all flows.
    pub fn sent(&self) -> u64 {
        self.flows.iter().map(|flow| flow.sent).sum()
    }

    /// How many of them had no answer.
    pub fn lost(&self) -> u64 {
        self.flows.iter().map(|flow| flow.lost.len() as u64).sum()
    }

    /// Who answered in any flow.
    pub fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.flows.iter().flat_map(|flow| &flow.answers)
    }

    /// The names of the pods that answered.
    pub fn pods(&self) -> BTreeSet<&str> {
        self.answers().map(|answer| answer.pod.as_str()).collect()
    }

    /// The longest that an answer took in any flow.
    pub fn longest(&self) -> Duration {
        let longest = self.flows.iter().map(|flow| flow.longest_ms).max();
        Duration::from_millis(longest.unwrap_or_default())
    }

    /// The longest time that a flow was without any answer.
    pub fn longest_silence(&self) -> Duration {
        let longest = self.flows.iter().map(|flow| flow.longest_silence_ms).max();
        Duration::from_millis(longest.unwrap_or_default())
    }
}

/// One flow while it lasts.
struct Flow {
    socket: UdpSocket,
    report: FlowReport,
    /// When each number was sent.
    sent: Vec<Instant>,
    /// When the last answer came, and the highest number that has one.
    last: Option<(Instant, u64)>,
}

impl Flow {
    fn new(socket: UdpSocket) -> Self {
        Self {
            socket,
            report: FlowReport::default(),
            sent: Vec::new(),
            last: None,
        }
    }

    fn run(mut self, asked: &Datagrams, is_over: &AtomicBool, known: &Barrier) -> FlowReport {
        self.send();
        let first = Instant::now() + asked.timeout;
        self.receive_until(first, |flow| flow.last.is_some());
        known.wait();
        let mut next = Instant::now();
        while asked.each.map_or_else(
            || !is_over.load(Ordering::Relaxed),
            |each| self.report.sent < each,
        ) {
            self.send();
            next += asked.interval;
            self.receive_until(next, |_| false);
        }
        let end = Instant::now() + asked.timeout;
        self.receive_until(end, |flow| flow.report.lost.is_empty());
        self.report
    }

    /// Sends the next number; what cannot be sent is as lost as what is not answered.
    fn send(&mut self) {
        let number = self.report.sent;
        self.report.sent += 1;
        self.report.lost.insert(number);
        self.sent.push(Instant::now());
        // An error may be an ICMP answer to the datagram before, which takes this one's place.
        if self.socket.send(number.to_string().as_bytes()).is_err() {
            let _ = self.socket.send(number.to_string().as_bytes());
        }
    }

    /// Takes answers until `deadline`, or until it is `enough`.
    fn receive_until(&mut self, deadline: Instant, enough: impl Fn(&Self) -> bool) {
        let mut buffer = [0; ANSWER_BYTES_MAX];
        while !enough(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            // A timeout of zero would be none.
            if left.is_zero() || self.socket.set_read_timeout(Some(left)).is_err() {
                return;
            }
            if let Ok(count) = self.socket.recv(&mut buffer) {
                self.count(&buffer[..count]);
            }
        }
    }

    fn count(&mut self, answer: &[u8]) {
        let Ok(body) = serde_json::from_slice::<Body>(answer) else {
            return;
        };
        let Ok(number) = body.said.parse::<u64>() else {
            return;
        };
        if !self.report.lost.remove(&number) {
            return;
        }
        let now = Instant::now();
        let (before, highest) = self.last.unwrap_or((now, number));
        let report = &mut self.report;
        report.longest_silence_ms = report.longest_silence_ms.max(milliseconds(now - before));
        // What was lost until now was sent.
        let took = now - self.sent[number as usize];
        report.longest_ms = report.longest_ms.max(milliseconds(took));
        self.report.late += u64::from(number < highest);
        self.report.answered += 1;
        self.last = Some((now, number.max(highest)));
        let client = without_port(body.client);
        let known = self.report.answers.iter_mut().find(|known| {
            (&known.pod, &known.node, &known.client) == (&body.pod, &body.node, &client)
        });
        match known {
            Some(known) => known.count += 1,
            None => self.report.answers.push(Answer {
                pod: body.pod,
                node: body.node,
                client,
                count: 1,
            }),
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as hello does all but the numbers in `silent`, and `7` after what follows it.
    fn serve(silent: &'static [u64]) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let address = socket.local_addr().expect("bound");
        thread::spawn(move || {
            let mut kept = None;
            let mut buffer = [0; 64];
            while let Ok((count, client)) = socket.recv_from(&mut buffer) {
                let said = String::from_utf8_lossy(&buffer[..count]).into_owned();
                let number: u64 = said.parse().expect("a number");
                let answer =
                    format!(r#"{{"pod":"p","node":"n","client":"{client}","said":"{said}"}}"#);
                if silent.contains(&number) {
                    continue;
                }
                if number == 7 {
                    kept = Some(answer);
                    continue;
                }
                for answer in [Some(answer), kept.take()].into_iter().flatten() {
                    let _ = socket.send_to(answer.as_bytes(), client);
                }
            }
        });
        address
    }

    fn one_flow(target: SocketAddr) -> FlowReport {
        let datagrams = Datagrams {
            target,
            from: Vec::new(),
            flows: 1,
            each: Some(10),
            interval: Duration::from_millis(1),
            timeout: Duration::from_millis(300),
        };
        let report = datagrams.run(io::empty(), io::sink()).expect("a report");
        report.flows.into_iter().next().expect("one flow")
    }

    #[test]
    fn numbers_without_an_answer_are_named() {
        let flow = one_flow(serve(&[3, 9]));
        assert_eq!((flow.sent, flow.answered), (10, 8));
        assert_eq!(flow.lost, [3, 9].into());
    }

    #[test]
    fn answers_out_of_order_are_late_and_not_lost() {
        let flow = one_flow(serve(&[]));
        assert_eq!((flow.answered, flow.late), (10, 1));
        assert_eq!(flow.answers[0].client, "127.0.0.1");
        assert_eq!(flow.answers[0].count, 10);
    }
}
