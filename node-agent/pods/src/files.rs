//! Writing files so that a reader sees the old or the new one, never half of either.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

/// Replaces `path` by a file that holds `bytes`. Survives a crash of the process at any point;
/// whether it survives one of the machine is left to the caller, who mostly must not wait for it.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".tmp-{}", std::process::id()));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    drop(file);
    fs::rename(&temporary, path)
}

/// Removes a directory tree that may not exist.
pub(crate) fn remove_tree_if_any(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a file that may not exist.
pub(crate) fn remove_file_if_any(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
