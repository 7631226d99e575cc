//! As much HTTP/1.1 as a client that counts answers needs: RFC 9112.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// A connection that sends one request after another.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    target: SocketAddr,
}

/// Sends one request on a connection of its own.
///
/// # Errors
/// The connection, the request or the answer failed, or took longer than `timeout`.
pub fn get(target: SocketAddr, path: &str, timeout: Duration) -> io::Result<Response> {
    Connection::open(target, timeout)?.send(path, "close")
}

impl Connection {
    /// Connects; every later step may take `timeout` too.
    ///
    /// # Errors
    /// The connection is refused or takes longer.
    pub fn open(target: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&target, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
            target,
        })
    }

    /// The address this end of the connection has.
    ///
    /// # Errors
    /// The socket has failed.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().local_addr()
    }

    /// Sends a request and leaves the connection open for the next.
    ///
    /// # Errors
    /// The request or the answer failed.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send(path, "keep-alive")
    }

    fn send(&mut self, path: &str, connection: &str) -> io::Result<Response> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n\r\n",
            self.target
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        read_response(&mut self.stream)
    }
}

fn read_response(stream: &mut impl BufRead) -> io::Result<Response> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection ended before an answer",
        ));
    }
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.trim().parse().ok())
        .ok_or_else(|| invalid(format!("not a status line: {line:?}")))?;
    let mut length = None;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let header = line.trim_end();
        if header.is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            let value = value.trim().parse();
            length = Some(value.map_err(|_| invalid(format!("bad length: {header:?}")))?);
        }
    }
    let mut body = Vec::new();
    match length {
        Some(length) => {
            body.resize(length, 0);
            stream.read_exact(&mut body)?;
        }
        None => {
            stream.read_to_end(&mut body)?;
        }
    }
    Ok(Response { status, body })
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expect: Result<(u16, &str), &str>) {
        let got = read_response(&mut input.as_bytes());
        match (got, expect) {
            (Ok(response), Ok((status, body))) => {
                assert_eq!(response.status, status, "{input:?}");
                assert_eq!(response.body, body.as_bytes(), "{input:?}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expect) => panic!("{input:?}: got {got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn responses_are_read_by_length_or_to_the_end() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi, more",
            Ok((200, "hi")),
        );
        check(
            "HTTP/1.0 404 Not Found\r\n\r\nnothing",
            Ok((404, "nothing")),
        );
        check("HTTP/1.1 200 OK\r\ncontent-LENGTH:0\r\n\r\n", Ok((200, "")));
        check("", Err("before an answer"));
        check("SSH-2.0-x\r\n", Err("not a status line"));
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            Err("bad length"),
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
            Err("failed to fill"),
        );
    }
}
