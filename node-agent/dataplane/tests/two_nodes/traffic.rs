//! Who serves, and who asks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use testbed::{Deadline, NetNs, NetNsHandle};

use crate::family::address;

/// More than the buffers on the way hold, so that there are packets as large as they may be.
const PAYLOAD: usize = 1 << 18;

/// Answers every connection in a namespace with the address it was made to, the one it came from,
/// and a payload.
pub(crate) fn serve(on: &NetNsHandle) {
    let listener = on.run(|| TcpListener::bind("[::]:8080").unwrap()).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, client)) = listener.accept() {
            let own = stream.local_addr().unwrap().ip().to_canonical();
            let client = client.ip().to_canonical();
            // A client that went away is its own affair.
            let _ =
                write!(stream, "{own} {client} ").and_then(|()| stream.write_all(&[b'x'; PAYLOAD]));
        }
    });
}

/// Connects from a namespace, and gives what was answered: the server's own address, and the
/// client's.
pub(crate) fn ask(
    from: &NetNsHandle,
    to: IpAddr,
    port: u16,
) -> Result<(IpAddr, IpAddr), std::io::Error> {
    let asked = from.run(|| {
        let to = SocketAddr::from((to, port));
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    asked.unwrap().map(|answer: String| {
        let words: Vec<&str> = answer.split(' ').collect();
        let [server, client, payload] = words[..] else {
            panic!("an answer of {} words", words.len());
        };
        assert_eq!(payload.len(), PAYLOAD);
        (address(server), address(client))
    })
}

/// Answers every datagram in a namespace with the address that answers, the one it came from, and what
/// it held.
pub(crate) fn echo_datagrams(on: &NetNsHandle, own: IpAddr) {
    let socket = on.run(|| UdpSocket::bind((own, 8080)).unwrap()).unwrap();
    std::thread::spawn(move || {
        let mut data = vec![0; 1 << 16];
        while let Ok((length, client)) = socket.recv_from(&mut data) {
            let greeting = format!("{own} {} ", client.ip());
            // A client that went away is its own affair.
            let _ = socket.send_to(&[greeting.as_bytes(), &data[..length]].concat(), client);
        }
    });
}

/// Sends a datagram and hears it again: which pod answered, and whom it thought to talk to. Tried until
/// the client's kernel has learned what fits the way.
pub(crate) fn exchange(from: &NetNs, to: SocketAddr, data: &[u8]) -> (IpAddr, IpAddr) {
    let own: SocketAddr = match to {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = from.run(|| UdpSocket::bind(own).unwrap()).unwrap();
    socket.connect(to).unwrap();
    let patience = Some(Duration::from_secs(1));
    socket.set_read_timeout(patience).unwrap();
    let mut answer = vec![0; 1 << 16];
    let asked = Deadline::seconds(30).wait_for("an answer", || {
        let heard = socket.send(data).and_then(|_| socket.recv(&mut answer));
        Ok(heard.ok())
    });
    let answer = &answer[..asked.unwrap()];
    let (greeting, rest) = answer.split_at(answer.len() - data.len());
    assert_eq!(rest, data);
    let words: Vec<&str> = std::str::from_utf8(greeting).unwrap().split(' ').collect();
    (address(words[0]), address(words[1]))
}

/// Answers every line of every connection in a namespace with the address it was made to.
pub(crate) fn echo(on: &NetNsHandle) {
    let listener = on.run(|| TcpListener::bind("[::]:8080").unwrap()).unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || answer_lines(stream));
        }
    });
}

fn answer_lines(stream: TcpStream) {
    let own = stream.local_addr().unwrap().ip().to_canonical();
    let mut answers = stream.try_clone().unwrap();
    // A client that went away is its own affair.
    for _ in BufReader::new(stream).lines().map_while(Result::ok) {
        if writeln!(answers, "{own}").is_err() {
            return;
        }
    }
}

/// A connection to a VIP that stays, and the pod that it is with.
pub(crate) struct Kept {
    stream: BufReader<TcpStream>,
    pub(crate) pod: IpAddr,
}

impl Kept {
    pub(crate) fn open(from: &NetNsHandle, vip: IpAddr) -> Self {
        let connected = from.run(|| {
            let stream = TcpStream::connect_timeout(&(vip, 80).into(), Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            Ok::<_, std::io::Error>(BufReader::new(stream))
        });
        let mut kept = Self {
            stream: connected.unwrap().unwrap(),
            pod: vip,
        };
        kept.pod = kept.ask().unwrap();
        kept
    }

    /// Which pod answers.
    pub(crate) fn ask(&mut self) -> std::io::Result<IpAddr> {
        writeln!(self.stream.get_mut(), "who?")?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        let answer = answer.trim().parse();
        answer.map_err(|_| std::io::ErrorKind::UnexpectedEof.into())
    }
}
