//! Container images: archives laid into a directory, their layers unpacked once each.
//!
//! Knows nothing of pods. An image is found by name; what to do when it is not is the caller's.

mod archive;
mod layer;
mod reference;
mod store;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) use archive::hex;
use archive::{Archive, ArchivedLayer, HashWriter, check_digest};
pub(crate) use store::{ImageStore, LAYERS_DIR, Missing};

use crate::files::remove_tree_if_any;

/// An image whose layers are unpacked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Digest of its config: `sha256:…`.
    pub(crate) id: String,
    /// Digest of its manifest, where the archive has one.
    pub(crate) manifest_digest: Option<String>,
    /// Complete names.
    pub(crate) names: Vec<String>,
    /// Layer directories in the store, lowest first.
    pub(crate) layers: Vec<String>,
    pub(crate) config: ImageConfig,
}

/// What an image says about running it (OCI image-spec, config.md).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageConfig {
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) working_dir: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) stop_signal: Option<String>,
}

/// Why an archive was not imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("holds no image for this machine (neither an OCI index.json nor a manifest.json)")]
    NoImage,
    #[error("{0} is missing")]
    Missing(String),
    #[error("cannot understand {name}")]
    Document {
        name: String,
        source: serde_json::Error,
    },
    #[error("{0:?} is not a sha256 digest")]
    DigestForm(String),
    #[error("{name} is damaged: its digest is {found}, not {expected}")]
    Digest {
        name: String,
        expected: String,
        found: String,
    },
    #[error("the manifest has {manifest} layers and the config {config}")]
    LayerCount { manifest: usize, config: usize },
    #[error("cannot unpack {layer}")]
    Layer { layer: String, source: io::Error },
    #[error("{0} is compressed with zstd; save the image with gzip or uncompressed layers")]
    Zstd(String),
    #[error("cannot prepare the layer store")]
    Store(#[source] io::Error),
}

/// The step that imports an archive in a process of its own: it mounts the layers below the one
/// it unpacks, in a mount namespace that ends with it. Prints the images as JSON.
pub(crate) fn import_step(archive: &Path, store: &Path) -> Result<(), String> {
    let images = import(archive, store).map_err(|error| fairlead_api::error_chain(&error))?;
    println!(
        "{}",
        serde_json::to_string(&images).expect("images are plain data")
    );
    Ok(())
}

fn import(path: &Path, store: &Path) -> Result<Vec<Image>, ImportError> {
    let layers_dir = store.join(LAYERS_DIR);
    isolate()
        .and_then(|()| fs::create_dir_all(&layers_dir))
        .map_err(ImportError::Store)?;
    let mut archive = Archive::open(path)?;
    let mut images = Vec::new();
    for archived in archive.images()? {
        let mut image = archived.image;
        let mut chain: Option<String> = None;
        for layer in &archived.layers {
            // The chain ID (OCI image-spec, config.md): what a layer unpacks to depends on those
            // below it, where it removes from them or follows their symlinks.
            let id = match &chain {
                None => layer.diff_id.clone(),
                Some(below) => {
                    let both = format!("{below} {}", layer.diff_id);
                    format!("sha256:{}", hex(&Sha256::digest(both)))
                }
            };
            let name: String = id.trim_start_matches("sha256:").chars().take(32).collect();
            if !layers_dir.join(&name).exists() {
                unpack(&mut archive, layer, &layers_dir, &image.layers, &name)?;
            }
            image.layers.push(name);
            chain = Some(id);
        }
        if image.layers.is_empty() {
            // overlayfs needs a lower directory even for an image of nothing.
            fs::create_dir_all(layers_dir.join("empty")).map_err(ImportError::Store)?;
            image.layers.push("empty".to_owned());
        }
        images.push(image);
    }
    Ok(images)
}

fn isolate() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        None::<&str>,
    )?;
    Ok(())
}

/// How overlayfs lays `layers`, the lowest first, below a directory that is written to. Layers are
/// named from the layer store: as whole paths many would not fit one page.
pub(crate) fn overlay_options(layers: &[String], upper: &Path, work: &Path) -> String {
    // It names the topmost first.
    let lower: Vec<&str> = layers.iter().rev().map(String::as_str).collect();
    format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        upper.display(),
        work.display()
    )
}

fn unpack(
    archive: &mut Archive,
    layer: &ArchivedLayer,
    layers_dir: &Path,
    below: &[String],
    name: &str,
) -> Result<(), ImportError> {
    // Fixed, so that what a killed import left is swept by the next.
    let unfinished = layers_dir.join(format!(".unfinished-{name}"));
    let upper = unfinished.join("upper");
    let prepare = || -> io::Result<PathBuf> {
        remove_tree_if_any(&unfinished)?;
        fs::create_dir_all(&upper)?;
        if below.is_empty() {
            return Ok(upper.clone());
        }
        let (work, merged) = (unfinished.join("work"), unfinished.join("merged"));
        fs::create_dir(&work)?;
        fs::create_dir(&merged)?;
        let options = overlay_options(below, &upper, &work);
        std::env::set_current_dir(layers_dir)?;
        let options = Some(options.as_str());
        mount(
            Some("overlay"),
            &merged,
            Some("overlay"),
            MsFlags::empty(),
            options,
        )?;
        Ok(merged)
    };
    let root = prepare().map_err(ImportError::Store)?;
    let mut hasher = Sha256::new();
    let tar = Tee {
        reader: archive.layer(layer)?,
        hasher: &mut hasher,
    };
    layer::unpack(tar, &root).map_err(|source| ImportError::Layer {
        layer: layer.diff_id.clone(),
        source,
    })?;
    check_digest("a layer's content", &layer.diff_id, hasher)?;
    let keep = || -> io::Result<()> {
        if !below.is_empty() {
            nix::mount::umount(&root)?;
        }
        fs::rename(&upper, layers_dir.join(name))?;
        remove_tree_if_any(&unfinished)
    };
    keep().map_err(ImportError::Store)
}

/// Hashes what is read through it.
struct Tee<'a, R> {
    reader: R,
    hasher: &'a mut Sha256,
}

impl<R: io::Read> io::Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        io::Write::write_all(&mut HashWriter(self.hasher), &buffer[..count])?;
        Ok(count)
    }
}
