//! Reading container logs back: the CRI format in, what the container wrote out.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::mpsc;

/// How often a followed log is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes handed on at once.
const CHUNK_BYTES: usize = 32 * 1024;

/// What `kubectl logs` asks.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// The container's name; may be left out of a pod with only one.
    pub container: Option<String>,
    /// Go on until the container ends.
    pub follow: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only what was written in the last so many seconds.
    pub since_seconds: Option<i64>,
    /// Only what was written from then on.
    pub since_time: Option<Timestamp>,
    /// Each line after its time.
    pub timestamps: bool,
    /// The run before the present one.
    pub previous: bool,
    /// No more than so many bytes.
    pub limit_bytes: Option<u64>,
}

/// The log of the container run that a request means.
pub(crate) fn find(dir: &Path, container: &str, previous: bool) -> Result<PathBuf, String> {
    let missing = || {
        let which = if previous { "previous terminated " } else { "" };
        format!("{which}container {container:?} has no log yet")
    };
    let mut attempts: Vec<(u32, PathBuf)> = fs::read_dir(dir.join(container))
        .map_err(|_| missing())?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let attempt = path
                .file_name()?
                .to_str()?
                .strip_suffix(".log")?
                .parse()
                .ok()?;
            Some((attempt, path))
        })
        .collect();
    attempts.sort();
    if previous {
        attempts.pop();
    }
    attempts.pop().map(|(_, path)| path).ok_or_else(missing)
}

/// Sends the log at `path` as asked. `runs` says whether its container still does.
pub(crate) async fn send(
    path: PathBuf,
    request: LogRequest,
    runs: impl Fn() -> bool,
    sender: mpsc::Sender<Result<Bytes, String>>,
) {
    if let Err(error) = copy(&path, &request, runs, &sender).await {
        let message = format!("cannot read {}: {error}", path.display());
        // A reader that has left needs no reason.
        let _ = sender.send(Err(message)).await;
    }
}

async fn copy(
    path: &Path,
    request: &LogRequest,
    runs: impl Fn() -> bool,
    sender: &mpsc::Sender<Result<Bytes, String>>,
) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(path)?);
    if let Some(lines) = request.tail_lines {
        let start = tail_start(reader.get_mut(), lines)?;
        reader.seek(SeekFrom::Start(start))?;
    }
    let since = request.since_time.or_else(|| {
        let span = jiff::SignedDuration::from_secs(request.since_seconds?);
        Timestamp::now().checked_sub(span).ok()
    });
    let mut output = Output {
        since,
        timestamps: request.timestamps,
        left: request.limit_bytes,
        buffer: Vec::new(),
        continues: false,
    };
    let mut line = Vec::new();
    loop {
        // Asked before reading: what a container wrote before it ended is read after.
        let ran = runs();
        loop {
            reader.read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                // The end, or half a line: the rest is appended to it by a later read.
                break;
            }
            output.take(&line[..line.len() - 1]);
            line.clear();
            let full = output.left == Some(0);
            if (full || output.buffer.len() >= CHUNK_BYTES) && !output.flush(sender).await {
                return Ok(());
            }
            if full {
                return Ok(());
            }
        }
        if !output.flush(sender).await || !request.follow || !ran {
            return Ok(());
        }
        tokio::select! {
            () = sender.closed() => return Ok(()),
            () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
        }
        if line.is_empty() && was_rotated(path, reader.get_ref())? {
            reader = BufReader::new(File::open(path)?);
        }
    }
}

/// Whether the path names another file now. What was left in the old one has been read: the shim
/// writes no more to it once it is renamed.
fn was_rotated(path: &Path, open: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(path) {
        Ok(present) => Ok(present.ino() != open.metadata()?.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where the last `lines` lines of a log begin. Parts of a long line count as one.
fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut starts = std::collections::VecDeque::new();
    let mut reader = BufReader::new(&mut *file);
    let (mut offset, mut continues) = (0, false);
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = reader.read_until(b'\n', &mut line)? as u64;
        if count == 0 {
            break;
        }
        if !continues {
            starts.push_back(offset);
            if starts.len() as u64 > lines {
                starts.pop_front();
            }
        }
        continues = Line::parse(&line).is_some_and(|line| line.partial);
        offset += count;
    }
    Ok(starts.front().copied().unwrap_or(offset))
}

/// A line of the CRI format: `TIMESTAMP STREAM TAG MESSAGE`.
struct Line<'a> {
    time: &'a str,
    partial: bool,
    message: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(fields.next()?).ok()?;
        let _stream = fields.next()?;
        let partial = fields.next()?.starts_with(b"P");
        Some(Self {
            time,
            partial,
            message: fields.next()?,
        })
    }
}

struct Output {
    since: Option<Timestamp>,
    timestamps: bool,
    /// Bytes that may still be sent.
    left: Option<u64>,
    buffer: Vec<u8>,
    /// The last line was a part: the next goes on with it.
    continues: bool,
}

impl Output {
    fn take(&mut self, line: &[u8]) {
        let Some(line) = Line::parse(line) else {
            return;
        };
        if let Some(since) = self.since
            && line
                .time
                .parse::<Timestamp>()
                .is_ok_and(|time| time < since)
        {
            return;
        }
        if self.timestamps && !self.continues {
            self.push(line.time.as_bytes());
            self.push(b" ");
        }
        self.push(line.message);
        if !line.partial {
            self.push(b"\n");
        }
        self.continues = line.partial;
    }

    fn push(&mut self, bytes: &[u8]) {
        let count = match &mut self.left {
            None => bytes.len(),
            Some(left) => {
                let count = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                count
            }
        };
        self.buffer.extend_from_slice(&bytes[..count]);
    }

    /// Hands on what is buffered; false if nobody reads any more.
    async fn flush(&mut self, sender: &mpsc::Sender<Result<Bytes, String>>) -> bool {
        if self.buffer.is_empty() {
            return !sender.is_closed();
        }
        sender
            .send(Ok(std::mem::take(&mut self.buffer).into()))
            .await
            .is_ok()
    }
}

/// The last bytes of a container's output, for `terminationMessagePolicy:
/// FallbackToLogsOnError`: at most 80 lines and 2048 bytes, as upstream.
pub(crate) fn last_words(path: &Path) -> Option<String> {
    const LINES: u64 = 80;
    const BYTES_MAX: usize = 2048;
    let mut file = File::open(path).ok()?;
    let start = tail_start(&mut file, LINES).ok()?;
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    let mut words = Vec::new();
    for line in text.split(|byte| *byte == b'\n').filter_map(Line::parse) {
        words.extend_from_slice(line.message);
        if !line.partial {
            words.push(b'\n');
        }
    }
    let cut = words.len().saturating_sub(BYTES_MAX);
    Some(String::from_utf8_lossy(&words[cut..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-01-01T00:00:01.000000000Z stdout F one
2026-01-01T00:00:02.000000000Z stdout P tw
2026-01-01T00:00:02.000000000Z stdout F o
2026-01-01T00:00:03.000000000Z stderr F three
";

    async fn read(request: LogRequest) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, LOG).unwrap();
        let (sender, mut receiver) = mpsc::channel(8);
        send(path, request, || false, sender).await;
        let mut text = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn lines_are_joined_and_stripped() {
        assert_eq!(read(LogRequest::default()).await, "one\ntwo\nthree\n");
    }

    #[tokio::test]
    async fn tail_counts_joined_lines() {
        let request = LogRequest {
            tail_lines: Some(2),
            ..LogRequest::default()
        };
        assert_eq!(read(request).await, "two\nthree\n");
        let none = LogRequest {
            tail_lines: Some(0),
            ..LogRequest::default()
        };
        assert_eq!(read(none).await, "");
    }

    #[tokio::test]
    async fn since_timestamps_and_limit_are_honoured() {
        let since_time = Some("2026-01-01T00:00:03Z".parse().unwrap());
        let request = LogRequest {
            since_time,
            timestamps: true,
            ..LogRequest::default()
        };
        assert_eq!(
            read(request).await,
            "2026-01-01T00:00:03.000000000Z three\n"
        );
        let limited = LogRequest {
            limit_bytes: Some(6),
            ..LogRequest::default()
        };
        assert_eq!(read(limited).await, "one\ntw");
    }
}
