//! hello: a tiny server that says who answered and whom it saw.
//!
//! Over HTTP it answers every path with `{"pod", "node", "client", "local"}`, so that a person (or a
//! test) in front of a load balancer can tell which pod a connection reached and whether the client's
//! own address arrived with it. `/healthz` answers `ok` for probes. On the UDP port of the same number
//! every datagram is answered with `{"pod", "node", "client", "said"}`: the same, and what it said.
//!
//! It knows nothing of Fairlead: it is an ordinary program to put in a container, small enough to
//! be the whole image (link it statically), and able to be pid 1 of it.

#![deny(unsafe_code)]

mod datagrams;
mod http;
mod identity;
mod server;
mod sys;

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;

use identity::Identity;
use server::Server;

const USAGE: &str = "\
hello: answers HTTP and datagrams with the pod, the node, and the address of the client

Usage: hello [--version | --help]

Environment:
  PORT       port to listen on, TCP and UDP [default: 8080]
  POD_NAME   name to answer with [default: HOSTNAME, then the host's name]
  NODE_NAME  node to answer with [default: empty]
";

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("--version" | "-V") => {
            println!("hello {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some("--help" | "-h") => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            eprintln!("hello: unknown argument {other:?}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    let port = match std::env::var("PORT").map(|text| text.parse::<u16>()) {
        Err(_) => 8080,
        Ok(Ok(port)) => port,
        Ok(Err(error)) => {
            eprintln!("hello: PORT is not a port number: {error}");
            return ExitCode::from(2);
        }
    };
    // Before any thread exists, so that all of them inherit the mask and only `wait` below sees
    // the signals. As pid 1 a process gets no default action for them: they must be taken.
    let signals = sys::StopSignals::block();
    let (listener, socket) = match listen(port) {
        Ok(sockets) => sockets,
        Err(error) => {
            eprintln!("hello: cannot listen on port {port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Ok(address) = listener.local_addr() {
        log(format_args!(
            "hello {} listens on {address}",
            env!("CARGO_PKG_VERSION")
        ));
    }
    let identity = Arc::new(identity());
    datagrams::answer(socket, Arc::clone(&identity));
    let server = Server::start(listener, identity);
    let name = signals.wait();
    log(format_args!(
        "hello: {name}, finishing {} connections",
        server.connection_count()
    ));
    server.stop();
    ExitCode::SUCCESS
}

/// A line on stderr, if anybody still reads it: `eprintln!` would panic where nobody does.
fn log(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A socket for connections and one for datagrams, at the same port: both families on each where
/// IPv6 exists, IPv4 alone where it does not.
fn listen(port: u16) -> std::io::Result<(TcpListener, UdpSocket)> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        .or_else(|_| TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))?;
    let socket = UdpSocket::bind(listener.local_addr()?)?;
    Ok((listener, socket))
}

fn identity() -> Identity {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    Identity {
        pod: variable("POD_NAME")
            .or_else(|| variable("HOSTNAME"))
            .or_else(|| {
                let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
                Some(name.trim().to_owned())
            })
            .unwrap_or_default(),
        node: variable("NODE_NAME").unwrap_or_default(),
    }
}
