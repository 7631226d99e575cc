use std::{
    fs::{self, OpenOptions},
    io::{self, Seek, SeekFrom},
    path::Path,
};

use tracing::warn;

use super::{
    Record,
    frame::{self, Found},
    segment::{MAGIC, Segment},
    tail::Tail,
    writer::Writer,
};
use crate::{OpenError, codec};

/// Reads the log in a directory, cuts its torn tail, and makes it ready to be written on.
pub(super) fn open(dir: &Path, segment_bytes: u64) -> Result<(Tail, Writer), OpenError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let mut segments = Segment::list(dir).map_err(failed(dir))?;
    if let Some(missing) = missing(&segments) {
        return Err(damaged(&missing, 0, "the segment is missing"));
    }

    let mut tail = Tail::default();
    let mut end = 0;
    let count = segments.len();
    for (i, segment) in segments.iter_mut().enumerate() {
        let is_last = i + 1 == count;
        let bytes = fs::read(&segment.path).map_err(failed(&segment.path))?;
        end = replay(segment, &bytes, is_last, &mut tail)?;
        if end < bytes.len() as u64 {
            let cut = bytes.len() as u64 - end;
            warn!(segment = %segment.path.display(), offset = end, bytes = cut, "cutting a torn record");
            truncate(&segment.path, end).map_err(failed(&segment.path))?;
        }
    }
    if let Some(index) = tail.gap() {
        let first = &segments[0];
        let reason = format!("entry {index} is missing from the log");
        return Err(damaged(first, 0, &reason));
    }

    let writer = match segments.pop() {
        Some(last) if end > 0 => {
            let mut file = OpenOptions::new()
                .write(true)
                .open(&last.path)
                .map_err(failed(&last.path))?;
            file.seek(SeekFrom::Start(end))
                .map_err(failed(&last.path))?;
            Writer::resume(dir, segments, last, file, end, segment_bytes)
        }
        // Nothing yet, or a file whose very first bytes were torn: it is made again.
        torn => {
            let first = torn.unwrap_or_else(|| Segment::at(dir, 1));
            let file = first.create().map_err(failed(&first.path))?;
            let end = MAGIC.len() as u64;
            Writer::resume(dir, segments, first, file, end, segment_bytes)
        }
    };
    let writer = writer.carrying(&tail);
    Ok((tail, writer))
}

/// Applies a segment's records; returns where its good part ends, 0 if it has none.
fn replay(
    segment: &mut Segment,
    bytes: &[u8],
    is_last: bool,
    tail: &mut Tail,
) -> Result<u64, OpenError> {
    if !bytes.starts_with(MAGIC) {
        // A crash while it was made leaves part of the first bytes, or zeros in their place.
        let part = MAGIC.starts_with(bytes) || bytes.iter().all(|&byte| byte == 0);
        if is_last && part {
            return Ok(0);
        }
        return Err(damaged(segment, 0, "it is no log of this version"));
    }
    let mut offset = MAGIC.len();
    loop {
        match frame::read(bytes, segment.number, offset) {
            Found::End => return Ok(offset as u64),
            Found::Frame(payload) => {
                let end = payload.end;
                let records = decode(&bytes[payload]);
                let records = records.map_err(|e| damaged(segment, offset, &e.to_string()))?;
                for record in &records {
                    tail.apply(record);
                    if let Record::Entry(entry) = record {
                        segment.last_index = segment.last_index.max(Some(entry.log_id.index));
                    }
                }
                offset = end;
            }
            Found::Bad(_) if is_last && !frame::any_behind(bytes, segment.number, offset) => {
                return Ok(offset as u64);
            }
            Found::Bad(reason) => return Err(damaged(segment, offset, reason)),
        }
    }
}

fn decode(mut payload: &[u8]) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    while !payload.is_empty() {
        let (record, rest) = codec::decode_first(payload)?;
        records.push(record);
        payload = rest;
    }
    Ok(records)
}

fn missing(segments: &[Segment]) -> Option<Segment> {
    let gap = segments
        .windows(2)
        .find(|pair| pair[0].number + 1 != pair[1].number)?;
    let dir = gap[0].path.parent().expect("a segment is in a directory");
    Some(Segment::at(dir, gap[0].number + 1))
}

fn truncate(path: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(length)?;
    file.sync_all()
}

fn damaged(segment: &Segment, offset: usize, reason: &str) -> OpenError {
    OpenError::DamagedLog {
        path: segment.path.clone(),
        offset: offset as u64,
        reason: reason.to_owned(),
    }
}
