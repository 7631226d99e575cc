//! Just enough of HTTP/1.1 (RFC 9112) to ask for a document and read the status of the answer.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::Failure;

/// "HTTP/1.1 200": what has to be read of an answer to know its status.
const STATUS_BYTES: usize = 12;

pub(crate) async fn get(
    mut stream: TcpStream,
    server: SocketAddr,
    path: &str,
) -> Result<(), Failure> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: fairlead-health\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    // One more byte than the status: a number of four digits is none.
    let mut start = [0; STATUS_BYTES + 1];
    let mut count = 0;
    while count < start.len() {
        match stream.read(&mut start[count..]).await? {
            0 => break,
            more => count += more,
        }
    }
    match status(&start[..count]) {
        Some(200..=399) => Ok(()),
        Some(other) => Err(Failure::Status(other)),
        None => Err(Failure::Malformed),
    }
}

/// The status of an answer by its first bytes.
fn status(start: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(start).ok()?;
    let rest = text.strip_prefix("HTTP/1.")?.get(1..)?.strip_prefix(' ')?;
    let number = rest.split([' ', '\r']).next()?;
    let status: u16 = number.parse().ok()?;
    (number.len() == 3).then_some(status)
}
