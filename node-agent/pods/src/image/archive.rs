//! Reading an image archive: a tar of an OCI image layout, or of `docker save`'s older form.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Image, ImageConfig, ImportError, reference};

/// Indexes, manifests and configs are small; a larger one is not what it says.
const DOCUMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// An index may point to an index, but not for ever.
const INDEX_DEPTH_MAX: usize = 4;
/// The annotations a tool may have left the image's name in.
const NAME_ANNOTATIONS: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// An archive and where its files begin in it.
pub(super) struct Archive {
    file: File,
    files: BTreeMap<String, Extent>,
}

#[derive(Clone, Copy)]
struct Extent {
    offset: u64,
    bytes: u64,
}

/// An image found in an archive, its layers not unpacked yet.
pub(super) struct ArchivedImage {
    pub(super) image: Image,
    pub(super) layers: Vec<ArchivedLayer>,
}

/// A layer in an archive.
pub(super) struct ArchivedLayer {
    /// The file that holds it.
    file: String,
    /// Digest of that file, where the archive states one.
    digest: Option<String>,
    /// Digest of the layer's uncompressed tar, from the image's config.
    pub(super) diff_id: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    config: Option<ImageConfig>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Archive {
    /// Reads the archive's table of contents.
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let fail = |source| ImportError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(fail)?;
        let mut files = BTreeMap::new();
        let mut tar = tar::Archive::new(file);
        for entry in tar.entries_with_seek().map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path().map_err(fail)?.to_string_lossy().into_owned();
            let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
            let extent = Extent {
                offset: entry.raw_file_position(),
                bytes: entry.size(),
            };
            files.insert(name, extent);
        }
        Ok(Self {
            file: tar.into_inner(),
            files,
        })
    }

    /// The images the archive holds for this machine.
    pub(super) fn images(&mut self) -> Result<Vec<ArchivedImage>, ImportError> {
        if self.files.contains_key("index.json") {
            let index: Index = self.document("index.json", None)?;
            let mut images = Vec::new();
            self.collect(index, &[], 0, &mut images)?;
            if !images.is_empty() {
                return Ok(images);
            }
        }
        if self.files.contains_key("manifest.json") {
            return self.docker_images();
        }
        Err(ImportError::NoImage)
    }

    fn collect(
        &mut self,
        index: Index,
        inherited: &[String],
        depth: usize,
        images: &mut Vec<ArchivedImage>,
    ) -> Result<(), ImportError> {
        if depth >= INDEX_DEPTH_MAX {
            return Err(ImportError::NoImage);
        }
        for descriptor in index.manifests {
            let mut names = inherited.to_vec();
            names.extend(
                NAME_ANNOTATIONS
                    .iter()
                    .filter_map(|key| descriptor.annotations.get(*key))
                    .filter_map(|name| reference::normalise(name)),
            );
            names.dedup();
            if !descriptor
                .platform
                .as_ref()
                .is_none_or(Platform::is_this_machine)
            {
                continue;
            }
            let blob = blob_path(&descriptor.digest)?;
            if descriptor.media_type.contains("index") || descriptor.media_type.contains("list") {
                let inner: Index = self.document(&blob, Some(&descriptor.digest))?;
                self.collect(inner, &names, depth + 1, images)?;
                continue;
            }
            let manifest: Manifest = self.document(&blob, Some(&descriptor.digest))?;
            let layers = manifest
                .layers
                .iter()
                .map(|layer| Ok((blob_path(&layer.digest)?, Some(layer.digest.clone()))))
                .collect::<Result<_, ImportError>>()?;
            let config = blob_path(&manifest.config.digest)?;
            let digest = Some(manifest.config.digest.as_str());
            let mut image = self.image(&config, digest, names, layers)?;
            image.image.manifest_digest = Some(descriptor.digest);
            images.push(image);
        }
        Ok(())
    }

    fn docker_images(&mut self) -> Result<Vec<ArchivedImage>, ImportError> {
        let manifests: Vec<DockerManifest> = self.document("manifest.json", None)?;
        manifests
            .into_iter()
            .map(|manifest| {
                let names = manifest
                    .repo_tags
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|name| reference::normalise(name))
                    .collect();
                let layers = manifest
                    .layers
                    .into_iter()
                    .map(|layer| (layer, None))
                    .collect();
                self.image(&manifest.config, None, names, layers)
            })
            .collect()
    }

    fn image(
        &mut self,
        config_file: &str,
        config_digest: Option<&str>,
        names: Vec<String>,
        layers: Vec<(String, Option<String>)>,
    ) -> Result<ArchivedImage, ImportError> {
        let bytes = self.bytes(config_file, config_digest)?;
        let config: ConfigFile = parse(config_file, &bytes)?;
        if config.rootfs.diff_ids.len() != layers.len() {
            return Err(ImportError::LayerCount {
                manifest: layers.len(),
                config: config.rootfs.diff_ids.len(),
            });
        }
        let layers = layers
            .into_iter()
            .zip(config.rootfs.diff_ids)
            .map(|((file, digest), diff_id)| ArchivedLayer {
                file,
                digest,
                diff_id,
            })
            .collect();
        let image = Image {
            id: format!("sha256:{}", hex(&Sha256::digest(&bytes))),
            manifest_digest: None,
            names,
            layers: Vec::new(),
            config: config.config.unwrap_or_default(),
        };
        Ok(ArchivedImage { image, layers })
    }

    /// The uncompressed tar of a layer, after its file's digest has been checked.
    pub(super) fn layer(&mut self, layer: &ArchivedLayer) -> Result<Box<dyn Read>, ImportError> {
        if let Some(expected) = &layer.digest {
            let mut hasher = Sha256::new();
            let fail = |source| ImportError::Layer {
                layer: layer.file.clone(),
                source,
            };
            io::copy(&mut self.reader(&layer.file)?, &mut HashWriter(&mut hasher)).map_err(fail)?;
            check_digest(&layer.file, expected, hasher)?;
        }
        let mut reader = self.reader(&layer.file)?;
        let mut magic = [0; 4];
        let fail = |source| ImportError::Layer {
            layer: layer.file.clone(),
            source,
        };
        let count = read_up_to(&mut reader, &mut magic).map_err(fail)?;
        let whole = io::Cursor::new(magic).take(count as u64).chain(reader);
        match magic {
            [0x1f, 0x8b, ..] => Ok(Box::new(MultiGzDecoder::new(whole))),
            [0x28, 0xb5, 0x2f, 0xfd] => Err(ImportError::Zstd(layer.file.clone())),
            _ => Ok(Box::new(whole)),
        }
    }

    fn document<T: serde::de::DeserializeOwned>(
        &mut self,
        name: &str,
        digest: Option<&str>,
    ) -> Result<T, ImportError> {
        let bytes = self.bytes(name, digest)?;
        parse(name, &bytes)
    }

    fn bytes(&mut self, name: &str, digest: Option<&str>) -> Result<Vec<u8>, ImportError> {
        let mut bytes = Vec::new();
        self.reader(name)?
            .take(DOCUMENT_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|source| ImportError::Layer {
                layer: name.to_owned(),
                source,
            })?;
        if let Some(expected) = digest {
            let mut hasher = Sha256::new();
            hasher.update(&bytes);
            check_digest(name, expected, hasher)?;
        }
        Ok(bytes)
    }

    fn reader(&mut self, name: &str) -> Result<io::Take<File>, ImportError> {
        let extent = *self
            .files
            .get(name)
            .ok_or_else(|| ImportError::Missing(name.to_owned()))?;
        let fail = |source| ImportError::Layer {
            layer: name.to_owned(),
            source,
        };
        let mut file = self.file.try_clone().map_err(fail)?;
        file.seek(SeekFrom::Start(extent.offset)).map_err(fail)?;
        Ok(file.take(extent.bytes))
    }
}

impl Platform {
    fn is_this_machine(&self) -> bool {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.os == "linux" && self.architecture == architecture
    }
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ImportError> {
    serde_json::from_slice(bytes).map_err(|source| ImportError::Document {
        name: name.to_owned(),
        source,
    })
}

/// Where an OCI image layout keeps the blob of a digest.
fn blob_path(digest: &str) -> Result<String, ImportError> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(format!("blobs/sha256/{hex}"))
        }
        _ => Err(ImportError::DigestForm(digest.to_owned())),
    }
}

/// Fails unless what `hasher` has seen has the digest `expected`.
pub(super) fn check_digest(name: &str, expected: &str, hasher: Sha256) -> Result<(), ImportError> {
    let found = format!("sha256:{}", hex(&hasher.finalize()));
    if found == expected {
        return Ok(());
    }
    Err(ImportError::Digest {
        name: name.to_owned(),
        expected: expected.to_owned(),
        found,
    })
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Feeds a hasher from whatever writes.
pub(super) struct HashWriter<'a>(pub(super) &'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
