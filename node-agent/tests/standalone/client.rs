//! Clients of VIPs: connections, datagrams, and load that counts what goes wrong.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::site::Site;

/// Who answered, and whom it thought to talk to.
fn greeting(line: &str) -> io::Result<(String, IpAddr)> {
    let (server, client) = line.rsplit_once(' ').ok_or(io::ErrorKind::InvalidData)?;
    let client = client.parse().map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((server.to_owned(), client))
}

/// A connection to a VIP, and who answered.
pub(crate) struct Conversation {
    stream: BufReader<TcpStream>,
    pub(crate) server: String,
    /// The client's address, as the server sees it.
    pub(crate) seen_as: IpAddr,
}

impl Conversation {
    pub(crate) fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut stream = BufReader::new(stream);
        let (server, seen_as) = greeting(&hear(&mut stream)?)?;
        Ok(Self {
            stream,
            server,
            seen_as,
        })
    }

    /// Says something and hears it again.
    pub(crate) fn ask(&mut self) -> io::Result<()> {
        self.exchange(5)
    }

    /// Says a line of `length` bytes and hears it again.
    pub(crate) fn exchange(&mut self, length: usize) -> io::Result<()> {
        let said = "x".repeat(length);
        self.stream
            .get_mut()
            .write_all(format!("{said}\n").as_bytes())?;
        if hear(&mut self.stream)? != said {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }
}

fn hear(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

/// A flow of datagrams to a VIP.
pub(crate) struct Datagrams(UdpSocket);

impl Datagrams {
    pub(crate) fn to(to: SocketAddr) -> io::Result<Self> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect(to)?;
        Ok(Self(socket))
    }

    /// Sends `data` and hears it again: from whom, and whom that thought to talk to.
    pub(crate) fn ask(&self, data: &[u8]) -> io::Result<(String, IpAddr)> {
        self.0.send(data)?;
        let mut answer = vec![0; data.len() + 100];
        let length = self.0.recv(&mut answer)?;
        let mut parts = answer[..length].splitn(2, |byte| *byte == b'\n');
        let (first, rest) = (parts.next(), parts.next());
        if rest != Some(data) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        greeting(&String::from_utf8_lossy(first.unwrap_or_default()))
    }
}

/// Load on services, which goes from one to the next: a short connection to each place, a word with one
/// that stays, and a datagram of a flow that has to stay with its server. What went wrong.
pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<(u32, Vec<String>)>,
}

impl Load {
    /// Begins, with TCP at the places of `tcp` and datagrams at those of `udp`.
    pub(crate) fn start(site: &Site, tcp: Vec<SocketAddr>, udp: Vec<SocketAddr>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let client = testbed::NetNsHandle::open(site.client.path()).unwrap();
        let thread = thread::spawn(move || client.run(|| load(&tcp, &udp, &over)).unwrap());
        Self { is_over, thread }
    }

    /// How many rounds there were; nothing may have failed.
    pub(crate) fn finish(self, site: &Site) -> u32 {
        self.is_over.store(true, Ordering::Relaxed);
        let (count, failures) = self.thread.join().unwrap();
        let drops = site.view("drops");
        assert!(
            failures.is_empty(),
            "{count} rounds, {failures:?}; {drops}; the log:\n{}",
            site.log()
        );
        count
    }
}

fn load(tcp: &[SocketAddr], udp: &[SocketAddr], over: &AtomicBool) -> (u32, Vec<String>) {
    let open = |to: &SocketAddr| (*to, Conversation::open(*to).unwrap());
    let mut kept: Vec<(SocketAddr, Conversation)> = tcp.iter().map(open).collect();
    let begin = |to: &SocketAddr| {
        let flow = Datagrams::to(*to).unwrap();
        let (server, _) = flow.ask(b"hello").unwrap();
        (*to, flow, server)
    };
    let flows: Vec<(SocketAddr, Datagrams, String)> = udp.iter().map(begin).collect();
    let (mut rounds, mut failures) = (0, Vec::new());
    while !over.load(Ordering::Relaxed) && failures.len() < 10 {
        rounds += 1;
        for (to, conversation) in &mut kept {
            if let Err(error) = Conversation::open(*to) {
                failures.push(format!("round {rounds}, a connection to {to}: {error}"));
            }
            if let Err(error) = conversation.ask() {
                failures.push(format!("round {rounds}, the one kept to {to}: {error}"));
            }
        }
        for (to, flow, server) in &flows {
            match flow.ask(b"hello") {
                Ok((answers, _)) if answers == *server => {}
                Ok((answers, _)) => {
                    failures.push(format!("round {rounds}, {to}: {answers}, not {server}"));
                }
                Err(error) => failures.push(format!("round {rounds}, a datagram to {to}: {error}")),
            }
        }
    }
    (rounds, failures)
}
