//! One connection to the shim: requests in, answers and states out, one JSON value a line.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::protocol::{Request, Response};

/// A request longer than this is not the agent's.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// More than this waits for no client.
const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long an ending shim waits for a client to read its last words.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// A connected agent.
pub(super) struct Client {
    pub(super) id: u64,
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    pub(super) watches: bool,
    pub(super) gone: bool,
}

impl Client {
    pub(super) fn new(id: u64, stream: UnixStream) -> Self {
        Self {
            id,
            stream,
            input: Vec::new(),
            output: Vec::new(),
            watches: false,
            gone: false,
        }
    }

    pub(super) fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether something waits for the client to read.
    pub(super) fn is_behind(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads what has arrived and cuts it into requests.
    pub(super) fn receive(&mut self) -> Vec<Result<Request, String>> {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.gone = true;
                    break;
                }
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.gone |= error.kind() != io::ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        let mut requests = Vec::new();
        while let Some(newline) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=newline).collect();
            requests.push(
                serde_json::from_slice(&line)
                    .map_err(|error| format!("cannot understand the request: {error}")),
            );
        }
        self.gone |= self.input.len() > REQUEST_BYTES_MAX;
        requests
    }

    pub(super) fn send(&mut self, response: &Response) {
        serde_json::to_writer(&mut self.output, response).expect("a response is plain data");
        self.output.push(b'\n');
        // Whoever does not read is let go, and finds all of it when it comes again.
        self.gone |= self.output.len() > OUTPUT_BYTES_MAX;
    }

    pub(super) fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => {
                    self.output.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.gone |= error.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
            }
        }
    }

    /// The last words: waits for the reader, for there is nothing else left to do.
    pub(super) fn flush_and_end(&mut self) {
        let _ = self.stream.set_write_timeout(Some(LAST_WORDS_MAX));
        let _ = self.stream.set_nonblocking(false);
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Client, UnixStream) {
        let (stream, agent) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        (Client::new(1, stream), agent)
    }

    #[test]
    fn request_in_two_pieces_is_read_once_it_is_whole_and_nonsense_is_answered() {
        let (mut client, mut agent) = pair();
        agent.write_all(b"\"Wat").unwrap();
        assert!(client.receive().is_empty());
        agent.write_all(b"ch\"\nnonsense\n").unwrap();
        let requests = client.receive();
        assert!(matches!(requests[0], Ok(Request::Watch)), "{requests:?}");
        assert!(requests[1].is_err());
        drop(agent);
        assert!(client.receive().is_empty());
        assert!(client.gone);
    }

    #[test]
    fn client_that_never_reads_is_let_go() {
        let (mut client, _agent) = pair();
        let response = Response::Failed("x".repeat(OUTPUT_BYTES_MAX / 4));
        for _ in 0..3 {
            client.send(&response);
            client.flush();
        }
        assert!(!client.gone && client.is_behind());
        (0..3).for_each(|_| client.send(&response));
        assert!(client.gone);
    }
}
