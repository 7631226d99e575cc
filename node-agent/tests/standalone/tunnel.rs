//! The end of tunnels that a real server is: as kernels with `ipip`, `sit`, `ip6_tunnel` and `fou` do,
//! it takes IP in IP and GUE off and gives itself what was inside. In user space, so that the tests need
//! no more of the machine's kernel than the balancer does.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, recv,
    sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use testbed::{NetNs, NetNsHandle};

const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const UDP: u8 = 17;
const GUE_PORT: [u8; 2] = 6080_u16.to_be_bytes();

/// Ends with the value.
pub(crate) struct Tunnels {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tunnels {
    /// Takes off what is encapsulated for a host.
    pub(crate) fn end_at(host: &NetNs) -> Self {
        let host = NetNsHandle::open(host.path()).unwrap();
        let open = |family, kind, protocol| {
            socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).expect("root has raw sockets")
        };
        let sockets = host.run(|| {
            let received = open(
                AddressFamily::Packet,
                SockType::Datagram,
                SockProtocol::EthAll,
            );
            // How soon the end of the test is noticed.
            let patience = TimeVal::new(0, 100_000);
            setsockopt(&received, sockopt::ReceiveTimeout, &patience).expect("set a timeout");
            let v4 = open(AddressFamily::Inet, SockType::Raw, SockProtocol::Raw);
            let v6 = open(AddressFamily::Inet6, SockType::Raw, SockProtocol::Raw);
            (received, v4, v6)
        });
        let (received, v4, v6) = sockets.unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut packet = vec![0; 1 << 16];
            while !over.load(Ordering::Relaxed) {
                // Nothing for a while.
                let Ok(length) = recv(received.as_raw_fd(), &mut packet, MsgFlags::empty()) else {
                    continue;
                };
                if let Some(inner) = inner(&packet[..length]) {
                    give(inner, &v4, &v6);
                }
            }
        });
        Self {
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The packet in an encapsulated one.
fn inner(outer: &[u8]) -> Option<&[u8]> {
    let (protocol, header) = match outer.first()? >> 4 {
        4 => (*outer.get(9)?, 20),
        6 => (*outer.get(6)?, 40),
        _ => return None,
    };
    match protocol {
        IPV4_IN_IP | IPV6_IN_IP => outer.get(header..),
        UDP if outer.get(header + 2..header + 4)? == GUE_PORT => outer.get(header + 8..),
        _ => None,
    }
}

/// Sends a packet to its destination, an address of this host.
fn give(packet: &[u8], v4: &OwnedFd, v6: &OwnedFd) {
    let flags = MsgFlags::empty();
    let sent = match packet.first().map(|first| first >> 4) {
        Some(4) => {
            let to: [u8; 4] = packet[16..20].try_into().expect("four bytes");
            let to = SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::from(to), 0));
            sendto(v4.as_raw_fd(), packet, &to, flags)
        }
        Some(6) => {
            let to: [u8; 16] = packet[24..40].try_into().expect("sixteen bytes");
            let to = std::net::SocketAddrV6::new(Ipv6Addr::from(to), 0, 0, 0);
            sendto(v6.as_raw_fd(), packet, &SockaddrIn6::from(to), flags)
        }
        _ => return,
    };
    if let Err(error) = sent {
        println!("a packet out of a tunnel is lost: {error}");
    }
}
