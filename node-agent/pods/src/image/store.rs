//! The images of a node: which archives were imported, and which name means which image.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::watch;

use super::{Image, reference};
use crate::files::write_atomically;

/// How often the archive directory is looked at.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);
/// Directory of unpacked layers in the store.
pub(crate) const LAYERS_DIR: &str = "layers";
const INDEX_FILE: &str = "index.json";

/// Why there is no image of a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It cannot be an image's name.
    InvalidName,
    /// No archive has it; the message says what to do.
    NotFound(String),
}

/// Imports what is laid into the archive directory and finds images by name.
pub(crate) struct ImageStore {
    archives: PathBuf,
    dir: PathBuf,
    /// Program and arguments of this binary's steps.
    step: Vec<OsString>,
    index: Mutex<Index>,
    /// Held while the directory is scanned: imports are one at a time.
    scanning: tokio::sync::Mutex<()>,
    changed: watch::Sender<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Index {
    /// Images by complete name; the one imported last wins.
    images: BTreeMap<String, Image>,
    /// Archives by file name.
    archives: BTreeMap<String, ArchiveRecord>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ArchiveRecord {
    fingerprint: Fingerprint,
    /// Why it was not imported.
    failure: Option<String>,
}

/// Tells a file that was replaced or is still growing from the one that was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fingerprint {
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl ImageStore {
    /// Opens the store in `dir` for archives in `archives`, making both.
    pub(crate) fn open(archives: PathBuf, dir: PathBuf, step: Vec<OsString>) -> io::Result<Self> {
        fs::create_dir_all(&archives)?;
        fs::create_dir_all(dir.join(LAYERS_DIR))?;
        let index = match fs::read(dir.join(INDEX_FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Index::default(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            archives,
            dir,
            step,
            index: Mutex::new(index),
            scanning: tokio::sync::Mutex::new(()),
            changed: watch::Sender::new(0),
        })
    }

    /// Where layers are.
    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.dir.join(LAYERS_DIR)
    }

    /// Changes whenever an archive was imported.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Imports new archives as they appear; never returns.
    pub(crate) async fn watch_archives(&self) {
        loop {
            self.scan().await;
            tokio::time::sleep(SCAN_INTERVAL).await;
        }
    }

    /// The image a pod names.
    pub(crate) async fn find(&self, name: &str) -> Result<Image, Missing> {
        let complete = reference::normalise(name).ok_or(Missing::InvalidName)?;
        if let Some(image) = self.lookup(&complete) {
            return Ok(image);
        }
        // It may have been laid there this moment, or be in the middle of its import.
        self.scan().await;
        self.lookup(&complete)
            .ok_or_else(|| Missing::NotFound(self.advice(name)))
    }

    fn lookup(&self, complete: &str) -> Option<Image> {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, digest) = complete.split_once('@').unzip();
        match digest {
            None => index.images.get(complete).cloned(),
            // By digest it does not matter what the archive called it.
            Some(digest) => index
                .images
                .values()
                .find(|image| image.manifest_digest.as_deref() == Some(digest))
                .cloned(),
        }
    }

    fn advice(&self, name: &str) -> String {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = format!(
            "image {name:?} is not on this node: save it as an OCI archive to {}/NAME.tar",
            self.archives.display()
        );
        if !index.images.is_empty() {
            let names: Vec<&str> = index.images.keys().map(String::as_str).collect();
            text.push_str(&format!(" (there are: {})", names.join(", ")));
        }
        for (file, record) in &index.archives {
            if let Some(failure) = &record.failure {
                text.push_str(&format!("; {file} could not be imported: {failure}"));
            }
        }
        text
    }

    /// Imports every archive that is new or has changed.
    async fn scan(&self) {
        let _scanning = self.scanning.lock().await;
        let found = match self.list() {
            Ok(found) => found,
            Err(error) => {
                let directory = self.archives.display();
                tracing::warn!(%directory, %error, "cannot list image archives");
                return;
            }
        };
        for (name, fingerprint) in found {
            let known = {
                let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
                index
                    .archives
                    .get(&name)
                    .is_some_and(|record| record.fingerprint == fingerprint)
            };
            if !known {
                self.import(&name, fingerprint).await;
            }
        }
    }

    fn list(&self) -> io::Result<Vec<(String, Fingerprint)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.archives)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".tar") || name.starts_with('.') {
                continue;
            }
            // Through a symlink: archives may be shared between nodes.
            let metadata = match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_file() => metadata,
                Ok(_) | Err(_) => continue,
            };
            let fingerprint = Fingerprint {
                inode: metadata.ino(),
                bytes: metadata.len(),
                modified_s: metadata.mtime(),
                modified_ns: metadata.mtime_nsec(),
            };
            found.push((name, fingerprint));
        }
        found.sort_by(|(left, _), (right, _)| left.cmp(right));
        Ok(found)
    }

    async fn import(&self, name: &str, fingerprint: Fingerprint) {
        let result = self.run_step(&self.archives.join(name)).await;
        let failure = match &result {
            Ok(images) => {
                let names: Vec<_> = images.iter().flat_map(|image| &image.names).collect();
                tracing::info!(archive = name, images = ?names, "imported images");
                None
            }
            Err(failure) => {
                tracing::warn!(archive = name, failure, "cannot import an image archive");
                Some(failure.clone())
            }
        };
        let bytes = {
            let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
            for image in result.unwrap_or_default() {
                for name in &image.names {
                    index.images.insert(name.clone(), image.clone());
                }
            }
            let record = ArchiveRecord {
                fingerprint,
                failure,
            };
            index.archives.insert(name.to_owned(), record);
            serde_json::to_vec(&*index).expect("the index is plain data")
        };
        if let Err(error) = write_atomically(&self.dir.join(INDEX_FILE), &bytes) {
            // Only a restart would notice, and import again.
            tracing::warn!(%error, "cannot write the image index");
        }
        self.changed.send_modify(|count| *count += 1);
    }

    async fn run_step(&self, archive: &Path) -> Result<Vec<Image>, String> {
        let (program, args) = self.step.split_first().ok_or("no program to import with")?;
        let output = Command::new(program)
            .args(args)
            .arg("import")
            .arg(archive)
            .arg(&self.dir)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| format!("cannot start the import: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("cannot understand the import's answer: {error}"))
    }
}
