//! Accepting, answering, and stopping without cutting an answer short.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::http;
use crate::identity::{Identity, plain};

/// More connections at once than this wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 4096;
/// A connection that sends nothing for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// How long `stop` waits for answers in progress.
const FINISH_MAX: Duration = Duration::from_secs(10);
/// A connection's thread only parses and formats; the default of 2 MiB is address space wasted.
const STACK_BYTES: usize = 128 * 1024;

struct Shared {
    identity: Arc<Identity>,
    stopping: AtomicBool,
    /// Every open connection, so that `stop` can end the idle ones.
    connections: Mutex<HashMap<u64, TcpStream>>,
    /// Signalled when a connection ends.
    ended: Condvar,
}

/// A running server: one thread accepts, one thread a connection answers.
pub(crate) struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Server {
    /// Starts accepting on `listener`.
    pub(crate) fn start(listener: TcpListener, identity: Arc<Identity>) -> Self {
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            identity,
            stopping: AtomicBool::new(false),
            connections: Mutex::new(HashMap::new()),
            ended: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting));
        Self { shared, address }
    }

    /// How many connections are open.
    pub(crate) fn connection_count(&self) -> usize {
        lock(&self.shared).len()
    }

    /// Stops accepting, lets requests that have arrived be answered, closes idle connections.
    pub(crate) fn stop(self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The accepting thread sleeps in accept(); a connection of our own wakes it, and it
        // drops the listener when it sees the flag.
        let wake = SocketAddr::new(
            match self.address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            },
            self.address.port(),
        );
        drop(TcpStream::connect_timeout(&wake, Duration::from_secs(1)));
        let mut connections = lock(&self.shared);
        for connection in connections.values() {
            // What the kernel already received can still be read; an idle reader sees the end.
            let _ = connection.shutdown(Shutdown::Read);
        }
        let deadline = Instant::now() + FINISH_MAX;
        while !connections.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            connections = self
                .shared
                .ended
                .wait_timeout(connections, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, HashMap<u64, TcpStream>> {
    // A thread that panicked left the map whole: each holder makes one insertion or removal.
    shared
        .connections
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for id in 0.. {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok((stream, client)) = accepted else {
            // Out of descriptors, or a client that left while it queued: neither is helped by
            // spinning.
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let mut connections = lock(shared);
        while connections.len() >= CONNECTIONS_MAX {
            connections = shared
                .ended
                .wait(connections)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let Ok(registered) = stream.as_fd().try_clone_to_owned() else {
            continue;
        };
        connections.insert(id, TcpStream::from(registered));
        drop(connections);
        let thread_shared = Arc::clone(shared);
        let spawned = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // An error here is the client's leaving: nobody is left to tell.
                let _ = converse(stream, client, &thread_shared);
                lock(&thread_shared).remove(&id);
                thread_shared.ended.notify_all();
            });
        if spawned.is_err() {
            lock(shared).remove(&id);
        }
    }
}

/// Answers requests on one connection until either side wants no more.
fn converse(mut stream: TcpStream, client: SocketAddr, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_MAX))?;
    // One for the life of the connection, since neither end of it changes.
    let local = plain(stream.local_addr()?).to_string();
    let answer = shared.identity.answer(client, ("local", &local));
    let mut input = Vec::with_capacity(1024);
    loop {
        let head = match http::parse(&input) {
            Ok(Some(head)) => head,
            Ok(None) => {
                if read_more(&mut stream, &mut input)? == 0 {
                    return Ok(());
                }
                continue;
            }
            Err(http::Refusal(status)) => {
                return stream.write_all(&http::response(status, "text/plain", "", false, false));
            }
        };
        let request_bytes = head.head_bytes + head.body_bytes;
        while input.len() < request_bytes {
            if read_more(&mut stream, &mut input)? == 0 {
                return Ok(());
            }
        }
        input.drain(..request_bytes);
        let keep_alive = head.keep_alive && !shared.stopping.load(Ordering::SeqCst);
        let (content_type, body) = match head.path.as_str() {
            "/healthz" => ("text/plain", "ok\n"),
            _ => ("application/json", answer.as_str()),
        };
        let response = http::response("200 OK", content_type, body, head.head_only, keep_alive);
        stream.write_all(&response)?;
        if !keep_alive {
            return Ok(());
        }
    }
}

fn read_more(stream: &mut TcpStream, input: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut chunk = [0; 4096];
    let count = stream.read(&mut chunk)?;
    input.extend_from_slice(&chunk[..count]);
    Ok(count)
}
