//! A root file system for the kernel to unpack into memory: a program, and the libraries it is
//! linked with.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cargo;

/// The archive's form: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<PathBuf>,
}

/// An archive in which `program` is the first process, `/init`, with the shared libraries of this
/// machine.
///
/// # Errors
/// A file cannot be read, or the program's libraries are not found.
pub(super) fn of(program: &Path) -> Result<Vec<u8>> {
    let mut archive = Cpio::new();
    archive.file(Path::new("/init"), program)?;
    for library in libraries(program)? {
        archive.file(&library, &library)?;
    }
    Ok(archive.finish())
}

/// The paths of the libraries that a program needs, its loader among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let program = program.to_str().context("a path that is text")?;
    let listed = cargo::probe("ldd", &[program]).with_context(|| format!("ldd {program}"))?;
    Ok(paths(&listed))
}

/// The paths in what ldd(1) prints: `name => path (address)`, or `path (address)` for the loader.
fn paths(listed: &str) -> Vec<PathBuf> {
    listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

impl Cpio {
    fn new() -> Self {
        Self {
            bytes: Vec::new(),
            entries: 0,
            folders: BTreeSet::new(),
        }
    }

    /// Adds the file at `source`, that anybody may run, and the folders it is in.
    fn file(&mut self, path: &Path, source: &Path) -> Result<()> {
        /// `S_IFREG`, `S_IFDIR`: inode(7).
        const FILE: u32 = 0o100_755;
        const FOLDER: u32 = 0o040_755;
        let data = fs::read(source).with_context(|| format!("read {}", source.display()))?;
        let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
        folders.reverse();
        for folder in folders
            .into_iter()
            .filter(|folder| *folder != Path::new("/"))
        {
            if self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER, &[]);
            }
        }
        self.entry(path, FILE, &data);
        Ok(())
    }

    fn entry(&mut self, path: &Path, mode: u32, data: &[u8]) {
        let name = path.to_string_lossy();
        let name = name.trim_start_matches('/');
        self.entries += 1;
        let length = |bytes: usize| u32::try_from(bytes).expect("archives are small");
        let fields = [
            self.entries, // inode
            mode,
            0, // owner
            0, // group
            1, // links
            0, // time
            length(data.len()),
            0, // device, major and minor
            0,
            0, // special file's device
            0,
            length(name.len() + 1),
            0, // checksum, of another form of archive
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(data);
        self.align();
    }

    /// Names and data begin at multiples of four.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("TRAILER!!!"), 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let listed = "\tlinux-vdso.so.1 (0x00007fff)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f00)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f01)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(paths(listed), expected.map(PathBuf::from));
    }

    #[test]
    fn a_file_is_preceded_by_its_folders_and_all_parts_are_aligned() {
        let source = std::env::current_exe().expect("this program");
        let mut archive = Cpio::new();
        for name in ["/lib/a/one", "/lib/a/three"] {
            archive.file(Path::new(name), &source).expect("add");
        }
        let bytes = archive.finish();
        let mut rest = &bytes[..];
        let mut names = Vec::new();
        while !rest.is_empty() {
            assert_eq!(&rest[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&rest[6 + 8 * index..][..8]).expect("digits");
                usize::from_str_radix(text, 16).expect("a number")
            };
            let (data, name) = (field(6), field(11));
            names.push(String::from_utf8_lossy(&rest[110..110 + name - 1]).into_owned());
            rest = &rest[(110 + name).next_multiple_of(4) + data.next_multiple_of(4)..];
        }
        assert_eq!(
            names,
            ["lib", "lib/a", "lib/a/one", "lib/a/three", "TRAILER!!!"]
        );
    }
}
