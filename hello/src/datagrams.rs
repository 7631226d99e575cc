//! Answering UDP: a datagram for a datagram, until the process ends.

use std::net::UdpSocket;
use std::sync::Arc;

use crate::identity::Identity;

/// More of a datagram than this is not said again: the answer stays within one packet.
const SAID_BYTES_MAX: usize = 512;

/// Starts answering on `socket`, in a thread of its own.
pub(crate) fn answer(socket: UdpSocket, identity: Arc<Identity>) {
    std::thread::spawn(move || {
        let mut said = [0; SAID_BYTES_MAX];
        loop {
            // An error is about a client that has left: the next datagram may be another's.
            let Ok((count, client)) = socket.recv_from(&mut said) else {
                continue;
            };
            let said = String::from_utf8_lossy(&said[..count]);
            let _ = socket.send_to(identity.answer(client, ("said", &said)).as_bytes(), client);
        }
    });
}
