//! Real servers: what they say to whom, over TCP and UDP.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use testbed::{NetNs, NetNsHandle};

use crate::site::Family;

/// A machine that serves.
pub(crate) struct Server {
    pub(crate) host: NetNs,
    segment: u8,
    number: u8,
}

impl Server {
    pub(crate) fn new(host: NetNs, segment: u8, number: u8) -> Self {
        Self {
            host,
            segment,
            number,
        }
    }

    /// Its own address.
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        family.host_on(self.segment, self.number)
    }

    /// Gives it the VIPs as LVS-DR wants it: it has them, and answers no ARP for them.
    pub(crate) fn hold_vips(&self) {
        for (setting, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
            self.host
                .sysctl(&format!("net.ipv4.conf.all.{setting}"), value)
                .unwrap();
        }
        for family in Family::BOTH {
            let vip = family.vip();
            self.host
                .ip(&format!("address add {vip} dev lo nodad"))
                .unwrap();
        }
    }

    /// Serves TCP at these ports until the value is dropped: says its name and whom it talks to, then
    /// repeats what it hears.
    pub(crate) fn serve(&self, ports: &[u16]) -> Serving {
        let mut serving = Serving::new(&self.host);
        for &port in ports {
            let listener = self.host.run(|| TcpListener::bind(("::", port))).unwrap();
            let name = format!("server {}", self.number);
            let place = (self.address(Family::V4), port).into();
            serving.add(Place::Tcp(place), listen(listener.unwrap(), name));
        }
        serving
    }

    /// Answers datagrams at these places until the value is dropped: each with its name and whom it
    /// talks to, and then what it heard.
    pub(crate) fn answer(&self, places: &[SocketAddr]) -> Serving {
        let mut serving = Serving::new(&self.host);
        for &place in places {
            let socket = self.host.run(|| UdpSocket::bind(place)).unwrap();
            let name = format!("server {}", self.number);
            serving.add(Place::Udp(place), echo(socket.unwrap(), name));
        }
        serving
    }
}

fn listen(listener: TcpListener, name: String) -> impl FnOnce(&AtomicBool) + Send {
    move |is_over| {
        while let Ok((stream, client)) = listener.accept() {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            let greeting = format!("{name} {}\n", client.ip().to_canonical());
            thread::spawn(move || repeat(stream, &greeting));
        }
    }
}

fn repeat(mut stream: TcpStream, greeting: &str) -> Option<()> {
    stream.write_all(greeting.as_bytes()).ok()?;
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    while let Some(Ok(line)) = lines.next() {
        stream.write_all(format!("{line}\n").as_bytes()).ok()?;
    }
    Some(())
}

fn echo(socket: UdpSocket, name: String) -> impl FnOnce(&AtomicBool) + Send {
    move |is_over| {
        let mut heard = [0; 1 << 16];
        loop {
            let received = socket.recv_from(&mut heard);
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            // A client that is gone is its own affair.
            let Ok((length, client)) = received else {
                continue;
            };
            let greeting = format!("{name} {}\n", client.ip().to_canonical());
            let _ = socket.send_to(&[greeting.as_bytes(), &heard[..length]].concat(), client);
        }
    }
}

/// Where something is served.
#[derive(Clone, Copy)]
enum Place {
    Tcp(SocketAddr),
    Udp(SocketAddr),
}

/// Threads that serve, and end with this value.
pub(crate) struct Serving {
    host: NetNsHandle,
    is_over: Arc<AtomicBool>,
    threads: Vec<(Place, JoinHandle<()>)>,
}

impl Serving {
    fn new(host: &NetNs) -> Self {
        Self {
            host: NetNsHandle::open(host.path()).unwrap(),
            is_over: Arc::default(),
            threads: Vec::new(),
        }
    }

    fn add(&mut self, place: Place, work: impl FnOnce(&AtomicBool) + Send + 'static) {
        let over = Arc::clone(&self.is_over);
        self.threads
            .push((place, thread::spawn(move || work(&over))));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for (place, thread) in self.threads.drain(..) {
            let _ = self.host.run(|| match place {
                Place::Tcp(place) => TcpStream::connect(place).map(drop),
                Place::Udp(place) => {
                    let any = if place.is_ipv4() {
                        "0.0.0.0:0"
                    } else {
                        "[::]:0"
                    };
                    UdpSocket::bind(any).and_then(|socket| socket.send_to(b"", place).map(drop))
                }
            });
            let _ = thread.join();
        }
    }
}
