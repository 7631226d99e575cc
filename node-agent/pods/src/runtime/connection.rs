//! Talking to a pod's shim.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::shim::protocol::{Request, Response, SOCKET};

/// One connection to one shim.
pub(super) struct Connection {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Connection {
    /// Connects to the shim of the pod in `pod_dir`.
    pub(super) async fn open(pod_dir: &Path) -> io::Result<Self> {
        // A socket's address holds 107 bytes; by way of the directory's descriptor any path fits.
        let directory = std::fs::File::open(pod_dir)?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
        let (reader, writer) = UnixStream::connect(path).await?.into_split();
        Ok(Self {
            lines: BufReader::new(reader).lines(),
            writer,
        })
    }

    /// Asks and waits for the answer.
    pub(super) async fn ask(&mut self, request: &Request) -> io::Result<Response> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.writer.write_all(&line).await?;
        self.next()
            .await?
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// The next answer of a watch; `None` when the shim is gone.
    pub(super) async fn next(&mut self) -> io::Result<Option<Response>> {
        match self.lines.next_line().await? {
            None => Ok(None),
            Some(line) => Ok(Some(serde_json::from_str(&line)?)),
        }
    }
}
