//! A name server of the outside, for names that are not the cluster's.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata::SOA};
use testbed::cluster::{CLIENT, Cluster, Host};

const PORT: u16 = 53;
/// How many addresses the large name has: too many for a datagram.
pub const LARGE: u8 = 150;

/// A name server at the client's host, whom the nodes ask. It knows `www.example.org`,
/// `large.example.org` and nothing else below `example.org`; about other names it fails. It answers
/// until the test's process ends.
#[derive(Clone, Debug, Default)]
pub struct NameServer {
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    /// Starts it.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let at = (CLIENT, PORT);
        let opened = cluster
            .netns(Host::Client)?
            .run(move || Ok::<_, std::io::Error>((UdpSocket::bind(at)?, TcpListener::bind(at)?)))?;
        let (udp, tcp) = opened.context("open the name server's sockets")?;
        let server = Self::default();
        let datagrams = server.clone();
        std::thread::spawn(move || datagrams.serve_udp(&udp));
        let connections = server.clone();
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                // A client that hangs up asks again if it likes.
                let _hung_up = connections.serve_tcp(stream);
            }
        });
        Ok(server)
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4_096];
        while let Ok((size, client)) = socket.recv_from(&mut buffer) {
            if let Some(response) = self.response(&buffer[..size], true) {
                // The node may have been killed meanwhile.
                let _node_gone = socket.send_to(&response, client);
            }
        }
    }

    fn serve_tcp(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut size = [0; 2];
        stream.read_exact(&mut size)?;
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(size))];
        stream.read_exact(&mut bytes)?;
        if let Some(response) = self.response(&bytes, false) {
            let size = u16::try_from(response.len()).map_err(std::io::Error::other)?;
            stream.write_all(&size.to_be_bytes())?;
            stream.write_all(&response)?;
        }
        Ok(())
    }

    fn response(&self, bytes: &[u8], is_datagram: bool) -> Option<Vec<u8>> {
        let mut message = Message::from_vec(bytes).ok()?;
        let query = message.queries.first()?.clone();
        self.asked.fetch_add(1, Ordering::SeqCst);
        message.metadata.message_type = MessageType::Response;
        message.metadata.recursion_available = true;
        let name = query.name().to_ascii().to_lowercase();
        let address = |last| {
            let data = RData::A(Ipv4Addr::new(192, 0, 2, last).into());
            Record::from_rdata(query.name().clone(), 60, data)
        };
        match (name.as_str(), query.query_type()) {
            ("www.example.org.", RecordType::A) => message.answers = vec![address(80)],
            ("large.example.org.", RecordType::A) if is_datagram => {
                message.metadata.truncation = true;
            }
            ("large.example.org.", RecordType::A) => {
                message.answers = (0..LARGE).map(address).collect();
            }
            (name, _) if name.ends_with(".example.org.") => {
                if !matches!(name, "www.example.org." | "large.example.org.") {
                    message.metadata.response_code = ResponseCode::NXDomain;
                }
                let zone = Name::from_ascii("example.org.").ok()?;
                let start = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 30);
                message.authorities = vec![Record::from_rdata(zone, 60, RData::SOA(start))];
            }
            _ => message.metadata.response_code = ResponseCode::ServFail,
        }
        message.to_vec().ok()
    }
}
