//! A program's own files: its configuration, read once into types, and secrets that only their
//! owner may read; and the resolver's configuration of the machine.
//!
//! Refuses to know: what the files are for.

#![forbid(unsafe_code)]

mod resolv_conf;

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

pub use resolv_conf::ResolvConf;

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It, or a directory, cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{} is not valid", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The configuration cannot be expressed.
    #[error("the configuration for {} cannot be written as TOML", path.display())]
    Render {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: toml::ser::Error,
    },
}

/// Reads a configuration. `None` when there is no such file.
///
/// # Errors
/// When it cannot be read or has an unknown, missing or malformed field.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Error::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    toml::from_str(&text)
        .map(Some)
        .map_err(|source| Error::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })
}

/// Writes a configuration.
///
/// # Errors
/// When it cannot be expressed or written.
pub fn save<T: Serialize>(path: &Path, config: &T) -> Result<(), Error> {
    let text = toml::to_string_pretty(config).map_err(|source| Error::Render {
        path: path.to_owned(),
        source,
    })?;
    write_private(path, &text)
}

/// Makes directories that only their owner may enter.
///
/// # Errors
/// When one cannot be made.
pub fn create_private(directories: &[PathBuf]) -> Result<(), Error> {
    for directory in directories {
        fs::create_dir_all(directory)
            .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o700)))
            .map_err(|source| Error::Write {
                path: directory.clone(),
                source,
            })?;
    }
    Ok(())
}

/// Writes a file that only its owner may read, and waits until it is on disk. Whoever reads the path
/// meanwhile, or after a crash, finds what was there before or all of `text`.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        })
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| match path.parent() {
            // The name is on disk only when its directory is.
            Some(parent) if parent != Path::new("") => fs::File::open(parent)?.sync_all(),
            Some(_) | None => Ok(()),
        })
        .map_err(|source| Error::Write {
            path: path.to_owned(),
            source,
        })
}

/// Reads a whole file as text.
///
/// # Errors
/// When it is absent or cannot be read.
pub fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, error::Error as _};

    use super::*;

    #[test]
    fn a_configuration_reads_back_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        let config = BTreeMap::from([("name".to_owned(), "a".to_owned())]);
        save(&path, &config).unwrap();
        assert_eq!(load(&path).unwrap(), Some(config));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn an_absent_configuration_is_none_and_a_broken_one_says_where() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        assert_eq!(load::<BTreeMap<String, u8>>(&path).unwrap(), None);
        fs::write(&path, "name = \"not a number\"").unwrap();
        let error = load::<BTreeMap<String, u8>>(&path).unwrap_err();
        assert!(
            error.source().unwrap().to_string().contains("name"),
            "{error}"
        );
    }
}
