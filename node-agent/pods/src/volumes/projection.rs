//! What comes from objects, written beside the old content and swapped in by one rename of `..data`,
//! so that a reader sees one version or the other, as upstream's AtomicWriter does.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume};

use super::place::relative;
use super::{VolumeError, Volumes, mode};
use crate::files::remove_tree_if_any;
use crate::objects::{ReferenceError, Source};
use crate::spec;

/// Mode of projected files unless the volume says otherwise.
const DEFAULT_MODE: u32 = 0o644;

/// A file of a projected volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProjectedFile {
    mode: u32,
    content: Vec<u8>,
}

impl Volumes<'_> {
    /// What a volume made of objects holds.
    pub(super) fn projection(
        &self,
        volume: &Volume,
    ) -> Result<BTreeMap<PathBuf, ProjectedFile>, VolumeError> {
        let mut files = Projection {
            volumes: self,
            volume: &volume.name,
            files: BTreeMap::new(),
        };
        if let Some(source) = &volume.config_map {
            let default = bits(source.default_mode, DEFAULT_MODE);
            let items = source.items.as_deref();
            files.add_object(
                Source::ConfigMap,
                &source.name,
                items,
                source.optional,
                default,
            )?;
        } else if let Some(source) = &volume.secret {
            let default = bits(source.default_mode, DEFAULT_MODE);
            let name = source.secret_name.as_deref().unwrap_or_default();
            let items = source.items.as_deref();
            files.add_object(Source::Secret, name, items, source.optional, default)?;
        } else if let Some(source) = &volume.downward_api {
            let default = bits(source.default_mode, DEFAULT_MODE);
            files.add_fields(source.items.as_deref().unwrap_or_default(), default)?;
        } else if let Some(projected) = &volume.projected {
            let default = bits(projected.default_mode, DEFAULT_MODE);
            for source in projected.sources.iter().flatten() {
                if let Some(source) = &source.config_map {
                    let items = source.items.as_deref();
                    let kind = Source::ConfigMap;
                    files.add_object(kind, &source.name, items, source.optional, default)?;
                } else if let Some(source) = &source.secret {
                    let items = source.items.as_deref();
                    let kind = Source::Secret;
                    files.add_object(kind, &source.name, items, source.optional, default)?;
                } else if let Some(source) = &source.downward_api {
                    files.add_fields(source.items.as_deref().unwrap_or_default(), default)?;
                } else {
                    return Err(VolumeError::Unsupported {
                        volume: volume.name.clone(),
                    });
                }
            }
        } else {
            return Err(VolumeError::Unsupported {
                volume: volume.name.clone(),
            });
        }
        Ok(files.files)
    }
}

/// A projected volume being put together.
struct Projection<'a> {
    volumes: &'a Volumes<'a>,
    volume: &'a str,
    files: BTreeMap<PathBuf, ProjectedFile>,
}

impl Projection<'_> {
    fn add(&mut self, path: &str, mode: u32, content: Vec<u8>) -> Result<(), VolumeError> {
        let path = relative(self.volume, path)?;
        self.files.insert(path, ProjectedFile { mode, content });
        Ok(())
    }

    fn add_object(
        &mut self,
        source: Source,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        default_mode: u32,
    ) -> Result<(), VolumeError> {
        let namespace = self
            .volumes
            .pod
            .metadata
            .namespace
            .as_deref()
            .unwrap_or_default();
        let volume = self.volume.to_owned();
        let mut entries = match self.volumes.objects.entries(source, namespace, name) {
            Ok(entries) => entries,
            Err(_) if optional == Some(true) => return Ok(()),
            Err(source) => return Err(VolumeError::Reference { volume, source }),
        };
        let Some(items) = items else {
            return entries
                .into_iter()
                .try_for_each(|(key, content)| self.add(&key, default_mode, content));
        };
        for item in items {
            match entries.remove(&item.key) {
                Some(content) => self.add(&item.path, bits(item.mode, default_mode), content)?,
                None if optional == Some(true) => {}
                None => {
                    let source = ReferenceError::NoKey {
                        kind: source.kind(),
                        name: name.to_owned(),
                        key: item.key.clone(),
                    };
                    return Err(VolumeError::Reference { volume, source });
                }
            }
        }
        Ok(())
    }

    fn add_fields(
        &mut self,
        items: &[DownwardAPIVolumeFile],
        default_mode: u32,
    ) -> Result<(), VolumeError> {
        let (pod, surroundings) = (self.volumes.pod, self.volumes.surroundings);
        for item in items {
            let value = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => spec::field(field, pod, surroundings),
                (None, Some(field)) => spec::resource(field, pod, "", surroundings),
                (None, None) => continue,
            };
            let value = value.map_err(|source| VolumeError::Reference {
                volume: self.volume.to_owned(),
                source,
            })?;
            self.add(
                &item.path,
                bits(item.mode, default_mode),
                value.into_bytes(),
            )?;
        }
        Ok(())
    }
}

/// Writes the volume's content into a new directory and swaps `..data` to it.
pub(super) fn write_projection(
    dir: &Path,
    files: &BTreeMap<PathBuf, ProjectedFile>,
) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let data = dir.join("..data");
    let previous = fs::read_link(&data).ok();
    if let Some(previous) = &previous
        && holds(&dir.join(previous), files)
    {
        return Ok(());
    }
    let stamp = jiff::Timestamp::now()
        .strftime("..%Y_%m_%d_%H_%M_%S.%N")
        .to_string();
    let next = dir.join(&stamp);
    for (path, file) in files {
        let path = next.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&next))?;
        fs::write(&path, &file.content)?;
        fs::set_permissions(&path, mode(file.mode))?;
    }
    fs::create_dir_all(&next)?;
    fs::set_permissions(&next, mode(0o755))?;
    let swap = dir.join("..data_tmp");
    remove_tree_if_any(&swap)?;
    symlink(&stamp, &swap)?;
    fs::rename(&swap, &data)?;
    // The names people use point through ..data, one for each top-level entry.
    let mut names: Vec<_> = files
        .keys()
        .filter_map(|path| path.components().next())
        .map(Component::as_os_str)
        .collect();
    names.dedup();
    for name in &names {
        let link = dir.join(name);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let internal = name.to_string_lossy().starts_with("..");
        if !internal && !names.contains(&name.as_os_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    match previous {
        Some(previous) => remove_tree_if_any(&dir.join(previous)),
        None => Ok(()),
    }
}

/// Whether a directory holds exactly these files.
fn holds(dir: &Path, files: &BTreeMap<PathBuf, ProjectedFile>) -> bool {
    fn count(dir: &Path) -> io::Result<usize> {
        fs::read_dir(dir)?.try_fold(0, |total, entry| {
            let entry = entry?;
            Ok(total
                + if entry.file_type()?.is_dir() {
                    count(&entry.path())?
                } else {
                    1
                })
        })
    }
    count(dir).is_ok_and(|found| found == files.len())
        && files.iter().all(|(path, file)| {
            fs::read(dir.join(path)).is_ok_and(|content| content == file.content)
        })
}

fn bits(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(default)
        & 0o7777
}
