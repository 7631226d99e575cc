//! The form of a frame: `payload length | payload CRC | header CRC | payload`, all integers `u32`
//! little-endian. The header's CRC also covers where the frame is, so that bytes which look like a
//! frame are one only in their own place.

use std::ops::Range;

/// Bytes in front of the payload.
pub(super) const HEADER_BYTES: usize = 12;

/// Appends a frame for `payload`, which will stand at `offset` of segment `segment`.
pub(super) fn write(buffer: &mut Vec<u8>, payload: &[u8], segment: u64, offset: u64) {
    let length = u32::try_from(payload.len()).expect("a frame is bounded far below 4 GiB");
    let mut head = [0; 8];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    buffer.extend_from_slice(&head);
    buffer.extend_from_slice(&header_crc(&head, segment, offset).to_le_bytes());
    buffer.extend_from_slice(payload);
}

/// What stands at an offset of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole frame; its payload is here, and the next begins at the end of it.
    Frame(Range<usize>),
    /// Nothing: the segment ends.
    End,
    /// Something else, for this reason.
    Bad(&'static str),
}

/// Looks at `offset`.
pub(super) fn read(bytes: &[u8], segment: u64, offset: usize) -> Found {
    let rest = &bytes[offset..];
    if rest.is_empty() {
        return Found::End;
    }
    let Some((head, tail)) = rest.split_first_chunk::<8>() else {
        return Found::Bad("the header is cut off");
    };
    let Some((crc, payload)) = tail.split_first_chunk::<4>() else {
        return Found::Bad("the header is cut off");
    };
    if u32::from_le_bytes(*crc) != header_crc(head, segment, offset as u64) {
        return Found::Bad("the header's checksum is wrong");
    }
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let payload_crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let Some(payload) = payload.get(..length) else {
        return Found::Bad("the payload is cut off");
    };
    if crc32fast::hash(payload) != payload_crc {
        return Found::Bad("the payload's checksum is wrong");
    }
    let begin = offset + HEADER_BYTES;
    Found::Frame(begin..begin + length)
}

/// Whether a good frame stands anywhere behind `offset`. Only looked for when the one at `offset`
/// is bad.
pub(super) fn any_behind(bytes: &[u8], segment: u64, offset: usize) -> bool {
    (offset + 1..bytes.len()).any(|at| matches!(read(bytes, segment, at), Found::Frame(_)))
}

fn header_crc(head: &[u8; 8], segment: u64, offset: u64) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&segment.to_le_bytes());
    crc.update(&offset.to_le_bytes());
    crc.update(head);
    crc.finalize()
}
