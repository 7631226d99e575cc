//! The program itself, over real sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Hello {
    child: Child,
    port: u16,
}

impl Hello {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hello"))
            .env("PORT", "0")
            .env("POD_NAME", "pod-a")
            .env("NODE_NAME", "node-1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let port = line.trim().rsplit(':').next().unwrap().parse().unwrap();
        Self { child, port }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).unwrap()
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Hello {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request(stream: &mut TcpStream, path: &str) -> (String, String) {
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes())
        .unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(
            reader.read_line(&mut head).unwrap(),
            0,
            "closed in the head: {head:?}"
        );
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap()
        .parse()
        .unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn requests_on_one_connection_are_answered_with_both_addresses() {
    let hello = Hello::start();
    let mut stream = hello.connect();
    let client = stream.local_addr().unwrap();
    for _ in 0..100 {
        let (head, body) = request(&mut stream, "/");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let port = hello.port;
        assert_eq!(
            body,
            format!(
                "{{\"pod\":\"pod-a\",\"node\":\"node-1\",\"client\":\"{client}\",\
                 \"local\":\"127.0.0.1:{port}\"}}\n"
            )
        );
    }
    assert_eq!(request(&mut stream, "/healthz").1, "ok\n");
}

#[test]
fn datagram_is_answered_with_what_it_said_and_whom_it_was_from() {
    let hello = Hello::start();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket.send_to(b"seven", ("127.0.0.1", hello.port)).unwrap();
    let mut answer = [0; 1024];
    let (count, _) = socket.recv_from(&mut answer).unwrap();
    let client = socket.local_addr().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&answer[..count]),
        format!(
            "{{\"pod\":\"pod-a\",\"node\":\"node-1\",\"client\":\"{client}\",\
             \"said\":\"seven\"}}\n"
        )
    );
}

#[test]
fn sigterm_with_an_idle_connection_ends_the_process_with_success() {
    let mut hello = Hello::start();
    let mut idle = hello.connect();
    request(&mut idle, "/");
    hello.terminate();
    assert!(hello.child.wait().unwrap().success());
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
}
