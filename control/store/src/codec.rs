//! How commands, log records, snapshots and messages between members become bytes: postcard, a
//! compact positional format. Files that hold it start with a version, so that a change of layout
//! is noticed instead of misread.

use std::io;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// Encodes one value.
pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_stdvec(value)
        .expect("every encoded type has a length known up front and no fallible field")
        .into()
}

/// Appends one value to a buffer.
pub(crate) fn encode_onto<T: Serialize>(value: &T, buffer: Vec<u8>) -> Vec<u8> {
    postcard::to_extend(value, buffer)
        .expect("every encoded type has a length known up front and no fallible field")
}

/// Decodes a value that takes up all of `bytes`.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let (value, rest) = decode_first(bytes)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} bytes follow the value", rest.len()),
        ))
    }
}

/// Decodes the first value in `bytes` and returns what follows it.
pub(crate) fn decode_first<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<(T, &[u8])> {
    postcard::take_from_bytes(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
