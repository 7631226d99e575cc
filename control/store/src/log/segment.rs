use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// First bytes of every segment; the digit is the version of the format of frames and records.
pub(super) const MAGIC: &[u8; 8] = b"FLWAL\0\x001";

/// A file of the log. Segments are numbered without a gap.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    /// The highest index of any entry in it.
    pub(super) last_index: Option<u64>,
}

impl Segment {
    /// The segment of that number, which need not exist.
    pub(super) fn at(dir: &Path, number: u64) -> Self {
        Self {
            number,
            path: dir.join(format!("{number:016}.wal")),
            last_index: None,
        }
    }

    /// The segments in a directory, in order; other files are not touched.
    pub(super) fn list(dir: &Path) -> io::Result<Vec<Self>> {
        let mut segments = Vec::new();
        for file in dir.read_dir()? {
            let name = file?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".wal"));
            if let Some(number) = name.and_then(|name| name.parse().ok()) {
                segments.push(Self::at(dir, number));
            }
        }
        segments.sort_by_key(|segment| segment.number);
        Ok(segments)
    }

    /// Makes the file, empty but for its first bytes, durable under its name.
    pub(super) fn create(&self) -> io::Result<File> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&self.path)?;
        file.write_all(MAGIC)?;
        file.sync_all()?;
        let dir = self.path.parent().expect("a segment is in a directory");
        File::open(dir)?.sync_all()?;
        Ok(file)
    }
}
