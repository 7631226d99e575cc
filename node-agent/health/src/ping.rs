//! Echo requests (RFC 792, RFC 4443 §4.1) from raw sockets: unlike datagram ones they need no
//! `net.ipv4.ping_group_range`, and the agent may open them anyway.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicU16, Ordering},
};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage};
use tokio::net::UdpSocket;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// An echo's header, and its data.
const MESSAGE_BYTES: usize = 16;
/// What is read of an answer: a message behind the longest IPv4 header.
const RECEIVED_BYTES: usize = 60 + MESSAGE_BYTES;

/// Sends one echo request and waits for its answer.
pub(crate) async fn ask(address: IpAddr) -> io::Result<()> {
    // The runtime's socket of datagrams reads and writes any kind of socket that keeps them apart.
    let socket = UdpSocket::from_std(open(address)?.into())?;
    let request = request(address, next_tag(), std::process::id());
    socket.send(&request).await?;
    let mut buffer = [0; RECEIVED_BYTES];
    loop {
        let count = socket.recv(&mut buffer).await?;
        if answers(address, &request, &buffer[..count]) {
            return Ok(());
        }
    }
}

/// A connected socket: the kernel gives it what comes from `address` alone.
fn open(address: IpAddr) -> io::Result<OwnedFd> {
    let (family, protocol) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, SockType::Raw, flags, protocol)?;
    let destination = SockaddrStorage::from(SocketAddr::new(address, 0));
    socket::connect(socket.as_raw_fd(), &destination)?;
    Ok(socket)
}

/// Tells requests of this process apart.
fn next_tag() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn request(address: IpAddr, tag: u16, process: u32) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    message[0] = if address.is_ipv4() {
        ECHO_REQUEST
    } else {
        ECHO_REQUEST_V6
    };
    // Identifier and sequence number, and the process in the data: sixteen bits of it may be
    // another's too.
    message[4..6].copy_from_slice(&(process as u16).to_be_bytes());
    message[6..8].copy_from_slice(&tag.to_be_bytes());
    message[8..12].copy_from_slice(&process.to_be_bytes());
    if address.is_ipv4() {
        // The kernel fills in ICMPv6's (RFC 3542 §3.1), for it covers the addresses.
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Whether what was received answers the request. IPv4's raw sockets receive the IP header too.
fn answers(address: IpAddr, request: &[u8; MESSAGE_BYTES], received: &[u8]) -> bool {
    let (kind, message) = match address {
        IpAddr::V4(_) => {
            let header = received
                .first()
                .map_or(0, |byte| usize::from(byte & 15) * 4);
            (ECHO_REPLY, received.get(header..).unwrap_or_default())
        }
        IpAddr::V6(_) => (ECHO_REPLY_V6, received),
    };
    message.first() == Some(&kind) && message.get(4..MESSAGE_BYTES) == Some(&request[4..])
}

/// RFC 1071.
fn checksum(message: &[u8]) -> u16 {
    let words = message.chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, Ipv6Addr},
        time::Duration,
    };

    use super::*;
    use crate::Probe;

    const LIMIT: Duration = Duration::from_secs(5);

    fn may_not_ping() -> bool {
        let may = open(Ipv4Addr::LOCALHOST.into()).is_ok();
        if !may {
            assert!(std::env::var_os("CI").is_none(), "CI runs as root");
            println!("SKIP: raw sockets need root");
        }
        !may
    }

    #[tokio::test]
    async fn own_machine_answers_over_both_families() {
        if may_not_ping() {
            return;
        }
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            Probe::Ping.ask(address, LIMIT).await.unwrap();
        }
    }

    #[tokio::test]
    async fn many_at_once_are_told_apart() {
        if may_not_ping() {
            return;
        }
        let asked: Vec<_> = (0..50)
            .map(|_| tokio::spawn(async { Probe::Ping.ask([127, 0, 0, 1].into(), LIMIT).await }))
            .collect();
        for one in asked {
            one.await.unwrap().unwrap();
        }
    }

    #[test]
    fn only_the_answer_to_the_very_request_counts() {
        let address = Ipv4Addr::LOCALHOST.into();
        let request = request(address, 7, 4242);
        assert_eq!(checksum(&request), 0, "with its checksum in it");
        let mut answer = vec![0x45; 20];
        answer.extend(request);
        assert!(!answers(address, &request, &answer), "the request itself");
        answer[20] = ECHO_REPLY;
        assert!(answers(address, &request, &answer));
        answer[27] ^= 1;
        assert!(
            !answers(address, &request, &answer),
            "another sequence number"
        );
        assert!(!answers(address, &request, &[]));
    }
}
