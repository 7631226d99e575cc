use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One datagram, and whoever answers it.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Where to.
    pub target: SocketAddr,
    /// What it says.
    pub bytes: Vec<u8>,
    /// Whether the socket is connected to the target, or names it when it sends.
    pub connect: bool,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Where it came from, as the socket sees it.
    pub from: SocketAddr,
    /// What it says.
    pub bytes: Vec<u8>,
}

impl Ask {
    /// Sends it and waits for the answer.
    ///
    /// # Errors
    /// None came in time.
    pub fn run(&self) -> io::Result<Asked> {
        let any = match self.target {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(self.timeout))?;
        if self.connect {
            socket.connect(self.target)?;
            socket.send(&self.bytes)?;
        } else {
            socket.send_to(&self.bytes, self.target)?;
        }
        let mut bytes = vec![0; 65_536];
        let (size, from) = socket.recv_from(&mut bytes)?;
        bytes.truncate(size);
        Ok(Asked { from, bytes })
    }
}
