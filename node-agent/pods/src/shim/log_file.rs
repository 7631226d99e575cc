//! A container's log in the CRI format: `TIMESTAMP STREAM F|P MESSAGE`, rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::files::remove_file_if_any;

/// A line longer than this is written in parts, all but the last marked `P`.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// When a log is rotated and how many files of it are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotation {
    pub(crate) file_bytes_max: u64,
    /// Files in all, the present one among them.
    pub(crate) file_count: usize,
}

impl Default for Rotation {
    /// The kubelet's: `containerLogMaxSize` 10Mi, `containerLogMaxFiles` 5.
    fn default() -> Self {
        Self {
            file_bytes_max: 10 * 1024 * 1024,
            file_count: 5,
        }
    }
}

/// Which of a container's streams a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// An open log and the unfinished line of each stream.
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    rotation: Rotation,
    pending: [Vec<u8>; 2],
}

impl LogFile {
    /// Opens `path` for appending, making its directory.
    pub(crate) fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes,
            rotation,
            pending: Default::default(),
        })
    }

    /// Opens the path again: what was there has been moved away.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)?;
        self.bytes = self.file.metadata()?.len();
        Ok(())
    }

    /// Takes what a stream produced; whole lines are written at once.
    pub(crate) fn append(&mut self, stream: Stream, mut data: &[u8]) -> io::Result<()> {
        let now = Timestamp::now();
        let mut out = Vec::with_capacity(data.len() + 64);
        let mut pending = std::mem::take(&mut self.pending[stream as usize]);
        while let Some(newline) = data.iter().position(|byte| *byte == b'\n') {
            pending.extend_from_slice(&data[..newline]);
            data = &data[newline + 1..];
            cut_parts(&mut out, now, stream, &mut pending);
            line(&mut out, now, stream, 'F', &pending);
            pending.clear();
        }
        pending.extend_from_slice(data);
        cut_parts(&mut out, now, stream, &mut pending);
        self.pending[stream as usize] = pending;
        self.write(&out)
    }

    /// The stream has ended: an unfinished line is written as a part.
    pub(crate) fn finish(&mut self, stream: Stream) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending[stream as usize]);
        if pending.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        line(&mut out, Timestamp::now(), stream, 'P', &pending);
        self.write(&out)
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.bytes > 0 && self.bytes + lines.len() as u64 > self.rotation.file_bytes_max {
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// Moves the present file to `N.log.TIMESTAMP`, as a kubelet does, and drops the oldest. A
    /// container may fill a file in less than a millisecond: the names tell nanoseconds apart.
    fn rotate(&mut self) -> io::Result<()> {
        let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S%9f");
        let mut moved = self.path.clone().into_os_string();
        moved.push(format!(".{stamp}"));
        fs::rename(&self.path, moved)?;
        self.reopen()?;
        let mut old = rotated(&self.path)?;
        let excess = (old.len() + 1).saturating_sub(self.rotation.file_count);
        old.drain(..excess).try_for_each(fs::remove_file)
    }
}

/// Removes the log at `path` and what was rotated out of it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let rotated = match rotated(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    rotated
        .iter()
        .map(PathBuf::as_path)
        .chain([path])
        .try_for_each(remove_file_if_any)
}

/// The rotated files of the log at `path`, oldest first.
pub(crate) fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut files = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn cut_parts(out: &mut Vec<u8>, now: Timestamp, stream: Stream, pending: &mut Vec<u8>) {
    while pending.len() > LINE_BYTES_MAX {
        let rest = pending.split_off(LINE_BYTES_MAX);
        line(out, now, stream, 'P', pending);
        *pending = rest;
    }
}

fn line(out: &mut Vec<u8>, now: Timestamp, stream: Stream, tag: char, message: &[u8]) {
    out.extend_from_slice(format!("{now:.9} {} {tag} ", stream.name()).as_bytes());
    out.extend_from_slice(message);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    #[test]
    fn lines_split_across_reads_are_joined_per_stream() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/0.log");
        let mut log = LogFile::open(&path, Rotation::default()).unwrap();
        log.append(Stream::Stdout, b"one\ntw").unwrap();
        log.append(Stream::Stderr, b"oops\n").unwrap();
        log.append(Stream::Stdout, b"o\nrest").unwrap();
        log.finish(Stream::Stdout).unwrap();
        assert_eq!(
            tail(&path),
            [
                "stdout F one",
                "stderr F oops",
                "stdout F two",
                "stdout P rest"
            ]
        );
    }

    #[test]
    fn overlong_line_is_written_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, Rotation::default()).unwrap();
        log.append(Stream::Stdout, &vec![b'x'; LINE_BYTES_MAX + 3])
            .unwrap();
        log.append(Stream::Stdout, b"\n").unwrap();
        let lines = tail(&path);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("stdout P xxx"));
        assert_eq!(lines[1], "stdout F xxx");
    }

    #[test]
    fn full_file_is_rotated_and_the_oldest_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let rotation = Rotation {
            file_bytes_max: 100,
            file_count: 3,
        };
        let mut log = LogFile::open(&path, rotation).unwrap();
        for number in 0..10 {
            log.append(
                Stream::Stdout,
                format!("{number} {}\n", "y".repeat(60)).as_bytes(),
            )
            .unwrap();
        }
        assert!(tail(&path)[0].starts_with("stdout F 9 "));
        assert_eq!(rotated(&path).unwrap().len(), 2);
    }

    #[test]
    fn removed_log_takes_its_rotated_files_along_and_leaves_other_runs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.log");
        for name in ["1.log", "1.log.20260101-000000", "11.log", "0.log"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        remove(&path).unwrap();
        remove(&path).unwrap();
        remove(&dir.path().join("absent/0.log")).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["0.log", "11.log"]);
    }
}
