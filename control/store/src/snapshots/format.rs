//! The form of a snapshot file: eight bytes that name the version, then blocks of
//! `length u32 | CRC32 u32 | bytes`: one head, any number of entries, and an empty block as the
//! end. A file that stops earlier is not a snapshot.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use fairlead_api::Revision;
use serde::{Deserialize, Serialize};

use super::SnapshotFile;
use crate::{
    Entry, codec,
    raft::SnapshotMeta,
    state::{Proposers, ProposersImage, State},
};

/// The digit is the version of the format.
const MAGIC: &[u8; 8] = b"FLSNAP\x001";

/// A block is closed when it has grown this large; one huge object may make it larger.
const BLOCK_BYTES: usize = 1 << 20;

/// What a snapshot holds.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Which log entries it stands for, and the membership then.
    pub(crate) meta: SnapshotMeta,
    /// The state after them.
    pub(crate) state: State,
}

#[derive(Serialize, Deserialize)]
struct Head {
    meta: SnapshotMeta,
    revision: Revision,
    entries: u64,
    proposers: ProposersImage,
}

/// Writes a snapshot to a new file and makes it durable (its name is the caller's to settle).
pub(crate) fn write(path: &Path, meta: &SnapshotMeta, state: &State) -> io::Result<()> {
    let mut file = BufWriter::new(File::create_new(path)?);
    file.write_all(MAGIC)?;
    let snapshot = state.snapshot();
    let head = Head {
        meta: meta.clone(),
        revision: snapshot.revision(),
        entries: snapshot.entries().len() as u64,
        proposers: state.proposers().image(),
    };
    write_block(&mut file, &codec::encode(&head))?;
    let mut block = Vec::new();
    for entry in snapshot.entries() {
        block = codec::encode_onto(entry, block);
        if block.len() >= BLOCK_BYTES {
            write_block(&mut file, &block)?;
            block.clear();
        }
    }
    if !block.is_empty() {
        write_block(&mut file, &block)?;
    }
    write_block(&mut file, &[])?;
    file.into_inner()?.sync_all()
}

/// Reads a whole snapshot and checks every byte of it.
pub(crate) fn read(file: &SnapshotFile) -> io::Result<Contents> {
    let mut blocks = Blocks::open(file)?;
    let head = blocks.next()?.ok_or_else(|| damaged("it has no head"))?;
    let head: Head = codec::decode(&head)?;
    let mut entries: Vec<Entry> = Vec::new();
    while let Some(block) = blocks.next()? {
        let mut rest = &block[..];
        while !rest.is_empty() {
            let (entry, behind) = codec::decode_first(rest)?;
            entries.push(entry);
            rest = behind;
        }
    }
    if entries.len() as u64 != head.entries {
        return Err(damaged("it has not as many objects as its head says"));
    }
    let proposers = Proposers::restore(head.proposers);
    Ok(Contents {
        meta: head.meta,
        state: State::restore(entries, head.revision, proposers),
    })
}

fn write_block(file: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len())
        .map_err(|_| io::Error::other("a snapshot block exceeds 4 GiB"))?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(&crc32fast::hash(bytes).to_le_bytes())?;
    file.write_all(bytes)
}

/// Reads block by block, so that only the objects themselves are in memory.
struct Blocks<'a> {
    file: &'a SnapshotFile,
    offset: u64,
    end: u64,
}

impl<'a> Blocks<'a> {
    fn open(file: &'a SnapshotFile) -> io::Result<Self> {
        if file.read_at(0, MAGIC.len())? != MAGIC {
            return Err(damaged("it is no snapshot of this version"));
        }
        Ok(Self {
            file,
            offset: MAGIC.len() as u64,
            end: file.length()?,
        })
    }

    /// The next block, or `None` at the empty one that ends the file.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let head = self.file.read_at(self.offset, 8)?;
        let Some((length, crc)) = head.split_first_chunk::<4>() else {
            return Err(damaged("it is cut off"));
        };
        let crc: [u8; 4] = crc.try_into().map_err(|_| damaged("it is cut off"))?;
        let length = u32::from_le_bytes(*length);
        self.offset += 8;
        // Before the length is trusted with an allocation.
        if self.offset + u64::from(length) > self.end {
            return Err(damaged("it is cut off"));
        }
        let bytes = self.file.read_at(self.offset, length as usize)?;
        self.offset += u64::from(length);
        if crc32fast::hash(&bytes) != u32::from_le_bytes(crc) {
            return Err(damaged("a block's checksum is wrong"));
        }
        if !bytes.is_empty() {
            return Ok(Some(bytes));
        }
        if self.offset == self.end {
            Ok(None)
        } else {
            Err(damaged("it goes on behind its end"))
        }
    }
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
