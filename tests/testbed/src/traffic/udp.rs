//! A stream of datagrams as fast as the sender can, and the place where they are counted.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The payload of a datagram: with its headers a frame of 60 bytes, the smallest on Ethernet.
const PAYLOAD: [u8; 18] = [0x66; 18];

/// How many datagrams go out between two looks at the clock.
const BATCH: usize = 256;

/// Datagrams to one address from many source ports, for a time.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// Where to.
    pub target: SocketAddr,
    /// How many sockets, and so flows, send in turn.
    pub flows: u16,
    /// For how long.
    pub duration: Duration,
}

/// What a flood sent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct FloodReport {
    /// Datagrams the kernel took.
    pub sent: u64,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

impl Flood {
    /// Sends.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn run(&self) -> Result<FloodReport> {
        let sockets = (0..self.flows.max(1))
            .map(|_| {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect(self.target)?;
                Ok(socket)
            })
            .collect::<std::io::Result<Vec<_>>>()
            .context("open a sender")?;
        let started = Instant::now();
        let mut sent = 0;
        let mut turn = sockets.iter().cycle();
        while started.elapsed() < self.duration {
            for socket in turn.by_ref().take(BATCH) {
                // A full queue or an ICMP answer is what a flood meets; what counts is what
                // arrives.
                sent += u64::from(socket.send(&PAYLOAD).is_ok());
            }
        }
        Ok(FloodReport {
            sent,
            elapsed_ms: milliseconds(started.elapsed()),
        })
    }
}

/// Counts the datagrams that reach a port.
#[derive(Clone, Copy, Debug)]
pub struct Sink {
    /// Where to listen.
    pub address: SocketAddr,
    /// How long after the last datagram the count ends.
    pub idle: Duration,
}

/// What a sink counted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SinkReport {
    /// Datagrams received.
    pub received: u64,
    /// From the first to the last, in milliseconds.
    pub elapsed_ms: u64,
}

impl Sink {
    /// Counts until none comes for the idle time. `ready` is called once the port is open.
    ///
    /// # Errors
    /// The port cannot be opened.
    pub fn run(&self, ready: impl FnOnce()) -> Result<SinkReport> {
        let socket =
            UdpSocket::bind(self.address).with_context(|| format!("listen on {}", self.address))?;
        ready();
        let mut buffer = [0; 64];
        let mut received = 0;
        socket
            .set_read_timeout(None)
            .context("wait without limit")?;
        socket.recv(&mut buffer).context("receive")?;
        let first = Instant::now();
        let mut last = first;
        socket
            .set_read_timeout(Some(self.idle))
            .context("limit the wait")?;
        loop {
            received += 1;
            match socket.recv(&mut buffer) {
                Ok(_) => last = Instant::now(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("receive"),
            }
        }
        Ok(SinkReport {
            received,
            elapsed_ms: milliseconds(last - first),
        })
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
