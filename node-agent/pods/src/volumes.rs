//! Volumes of a pod.
//!
//! What comes from objects is written beside the old content and swapped in by one rename of
//! `..data`, so that a reader sees one version or the other, as upstream's AtomicWriter does.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, Volume,
};

use crate::files::remove_tree_if_any;
use crate::objects::{Objects, ReferenceError, Source};
use crate::quantity;
use crate::shim::protocol::Tmpfs;
use crate::spec::{self, BindMount, Surroundings};

/// Mode of projected files unless the volume says otherwise.
const DEFAULT_MODE: u32 = 0o644;

/// Why a volume cannot be offered yet: Event `FailedMount`, tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("volume {volume:?}: {source}")]
    Reference {
        volume: String,
        source: ReferenceError,
    },
    #[error("volume {volume:?}: path {path:?} would leave the volume")]
    Path { volume: String, path: String },
    #[error("volume {volume:?}: hostPath type check failed: {path} is not a {expected}")]
    HostPath {
        volume: String,
        path: String,
        expected: &'static str,
    },
    #[error("volume {volume:?} is of a kind this node does not offer")]
    Unsupported { volume: String },
    #[error("volume {volume:?} is in memory, of which this node offers no subPath")]
    MemorySubPath { volume: String },
    #[error("volume {volume:?}: {source}")]
    Io { volume: String, source: io::Error },
    #[error("volume mount {name:?} names no volume of the pod")]
    NoVolume { name: String },
}

/// A file of a projected volume.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ProjectedFile {
    mode: u32,
    content: Vec<u8>,
}

/// The volumes of one pod, below one directory.
pub(crate) struct Volumes<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) objects: &'a Objects,
    pub(crate) surroundings: &'a Surroundings,
    /// The pod's data directory.
    pub(crate) dir: PathBuf,
}

impl Volumes<'_> {
    /// Makes what is missing and renews what has changed. Memory volumes are the shim's.
    pub(crate) fn prepare(&self) -> Result<(), VolumeError> {
        for volume in self.volumes() {
            let io_error = |source| VolumeError::Io {
                volume: volume.name.clone(),
                source,
            };
            let path = self.path(&volume.name);
            if let Some(host) = &volume.host_path {
                check_host_path(&volume.name, host)?;
            } else if volume.empty_dir.is_some() {
                if !path.exists() {
                    fs::DirBuilder::new()
                        .recursive(true)
                        .mode(0o777)
                        .create(&path)
                        .and_then(|()| fs::set_permissions(&path, mode(0o777)))
                        .and_then(|()| self.give_to_group(&path))
                        .map_err(io_error)?;
                }
            } else {
                let files = self.projection(volume)?;
                write_projection(&path, &files)
                    .and_then(|()| self.give_to_group(&path))
                    .map_err(io_error)?;
            }
        }
        Ok(())
    }

    /// Memory volumes, to be mounted by the shim.
    pub(crate) fn memory_volumes(&self) -> Vec<Tmpfs> {
        self.volumes()
            .filter_map(|volume| {
                let empty_dir = volume.empty_dir.as_ref()?;
                is_in_memory(volume).then(|| Tmpfs {
                    path: self.path(&volume.name),
                    size_bytes: empty_dir
                        .size_limit
                        .as_ref()
                        .and_then(quantity::units)
                        .and_then(|bytes| u64::try_from(bytes).ok()),
                })
            })
            .collect()
    }

    /// The container's mounts of them.
    pub(crate) fn mounts(&self, container: &Container) -> Result<Vec<BindMount>, VolumeError> {
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let volume = self
                .volumes()
                .find(|volume| volume.name == mount.name)
                .ok_or_else(|| VolumeError::NoVolume {
                    name: mount.name.clone(),
                })?;
            let mut source = match &volume.host_path {
                Some(host) => PathBuf::from(&host.path),
                None => self.path(&volume.name),
            };
            if let Some(sub_path) = mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
                // Its content is in the shim's mount namespace alone: nobody here could say
                // where a path in it leads.
                if is_in_memory(volume) {
                    let volume = volume.name.clone();
                    return Err(VolumeError::MemorySubPath { volume });
                }
                source = sub_directory(&volume.name, &source, sub_path)?;
            }
            let writable = volume.empty_dir.is_some() || volume.host_path.is_some();
            mounts.push(BindMount {
                source,
                target: mount.mount_path.clone(),
                read_only: mount.read_only == Some(true) || !writable,
            });
        }
        Ok(mounts)
    }

    fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join("volumes").join(name)
    }

    fn give_to_group(&self, path: &Path) -> io::Result<()> {
        let security = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.security_context.as_ref());
        let group = security.and_then(|security| security.fs_group);
        let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else {
            return Ok(());
        };
        std::os::unix::fs::lchown(path, None, Some(group))?;
        if path.is_dir() && !path.is_symlink() {
            let present = fs::metadata(path)?.permissions().mode();
            fs::set_permissions(path, mode(present | 0o2070))?;
            for entry in fs::read_dir(path)? {
                self.give_to_group(&entry?.path())?;
            }
        }
        Ok(())
    }

    /// What a volume made of objects holds.
    fn projection(&self, volume: &Volume) -> Result<BTreeMap<PathBuf, ProjectedFile>, VolumeError> {
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
                    let kind = if source == Source::Secret {
                        "secret"
                    } else {
                        "configmap"
                    };
                    let source = ReferenceError::NoKey {
                        kind,
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
fn write_projection(dir: &Path, files: &BTreeMap<PathBuf, ProjectedFile>) -> io::Result<()> {
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

fn check_host_path(volume: &str, host: &HostPathVolumeSource) -> Result<(), VolumeError> {
    let path = Path::new(&host.path);
    let kind = fs::metadata(path).map(|metadata| metadata.file_type());
    let is = |test: fn(&fs::FileType) -> bool| kind.as_ref().is_ok_and(test);
    let io_error = |source| VolumeError::Io {
        volume: volume.to_owned(),
        source,
    };
    let expected = match host.type_.as_deref().unwrap_or_default() {
        "" => return Ok(()),
        "DirectoryOrCreate" if kind.is_err() => {
            return fs::create_dir_all(path).map_err(io_error);
        }
        "FileOrCreate" if kind.is_err() => {
            return fs::File::create(path).map(drop).map_err(io_error);
        }
        "DirectoryOrCreate" | "Directory" if is(fs::FileType::is_dir) => return Ok(()),
        "FileOrCreate" | "File" if is(fs::FileType::is_file) => return Ok(()),
        "Socket" if is(fs::FileType::is_socket) => return Ok(()),
        "CharDevice" if is(fs::FileType::is_char_device) => return Ok(()),
        "BlockDevice" if is(fs::FileType::is_block_device) => return Ok(()),
        "DirectoryOrCreate" | "Directory" => "directory",
        "FileOrCreate" | "File" => "file",
        "Socket" => "socket",
        "CharDevice" => "character device",
        "BlockDevice" => "block device",
        _ => "known hostPath type",
    };
    Err(VolumeError::HostPath {
        volume: volume.to_owned(),
        path: host.path.clone(),
        expected,
    })
}

fn relative(volume: &str, path: &str) -> Result<PathBuf, VolumeError> {
    let inside = Path::new(path)
        .components()
        .all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    if inside && !path.is_empty() {
        Ok(PathBuf::from(path))
    } else {
        Err(VolumeError::Path {
            volume: volume.to_owned(),
            path: path.to_owned(),
        })
    }
}

fn is_in_memory(volume: &Volume) -> bool {
    let medium = volume
        .empty_dir
        .as_ref()
        .and_then(|empty_dir| empty_dir.medium.as_deref());
    medium == Some("Memory")
}

/// The place below a volume's root that a subPath means, made where it is missing. Containers write
/// into volumes: a symlink one of them left must not lead another out to the node's files.
fn sub_directory(volume: &str, root: &Path, sub_path: &str) -> Result<PathBuf, VolumeError> {
    let io_error = |source| VolumeError::Io {
        volume: volume.to_owned(),
        source,
    };
    let root = root.canonicalize().map_err(io_error)?;
    let mut place = root.clone();
    for component in relative(volume, sub_path)?.components() {
        let next = place.join(component);
        match fs::create_dir(&next) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error(error));
            }
            Ok(()) | Err(_) => {}
        }
        place = next.canonicalize().map_err(io_error)?;
        if !place.starts_with(&root) {
            return Err(VolumeError::Path {
                volume: volume.to_owned(),
                path: sub_path.to_owned(),
            });
        }
    }
    Ok(place)
}

fn bits(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(default)
        & 0o7777
}

fn mode(bits: u32) -> fs::Permissions {
    fs::Permissions::from_mode(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(volume: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "a"}},
            "spec": {"containers": [], "volumes": [volume]},
        }))
        .unwrap()
    }

    fn objects(data: serde_json::Value) -> Objects {
        let map = serde_json::json!({"metadata": {"name": "m", "namespace": "n"}, "data": data});
        Objects::new([serde_json::from_value(map).unwrap()], [])
    }

    fn prepare(pod: &Pod, objects: &Objects, dir: &Path) -> Result<(), VolumeError> {
        Volumes {
            pod,
            objects,
            surroundings: &Surroundings::for_tests(),
            dir: dir.into(),
        }
        .prepare()
    }

    #[test]
    fn changed_config_map_is_swapped_in_whole() {
        let dir = tempfile::tempdir().unwrap();
        let pod = pod(serde_json::json!({"name": "v", "configMap": {"name": "m"}}));
        prepare(
            &pod,
            &objects(serde_json::json!({"a": "1", "b": "1"})),
            dir.path(),
        )
        .unwrap();
        let volume = dir.path().join("volumes/v");
        let first = fs::read_link(volume.join("..data")).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
        prepare(
            &pod,
            &objects(serde_json::json!({"a": "1", "b": "1"})),
            dir.path(),
        )
        .unwrap();
        assert_eq!(
            fs::read_link(volume.join("..data")).unwrap(),
            first,
            "nothing changed"
        );
        prepare(
            &pod,
            &objects(serde_json::json!({"a": "2", "c": "2"})),
            dir.path(),
        )
        .unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "2");
        assert_eq!(fs::read_to_string(volume.join("c")).unwrap(), "2");
        assert!(!volume.join("b").is_symlink());
        assert!(!volume.join(first).exists());
    }

    #[test]
    fn missing_object_and_climbing_path_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let missing = pod(serde_json::json!({"name": "v", "secret": {"secretName": "s"}}));
        let error = prepare(&missing, &Objects::default(), dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "volume \"v\": secret \"s\" not found");
        let climbing = pod(serde_json::json!({"name": "v", "configMap": {
            "name": "m", "items": [{"key": "a", "path": "../x"}]}}));
        let objects = objects(serde_json::json!({"a": "1"}));
        assert!(prepare(&climbing, &objects, dir.path()).is_err());
    }

    #[test]
    fn host_path_of_the_wrong_type_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let volume = |kind| {
            pod(serde_json::json!({"name": "v", "hostPath":
                {"path": dir.path().to_str().unwrap(), "type": kind}}))
        };
        prepare(&volume("Directory"), &Objects::default(), dir.path()).unwrap();
        assert!(prepare(&volume("File"), &Objects::default(), dir.path()).is_err());
    }

    #[test]
    fn projected_volume_joins_its_sources() {
        let dir = tempfile::tempdir().unwrap();
        let pod = pod(serde_json::json!({"name": "v", "projected": {"sources": [
            {"configMap": {"name": "m", "items": [{"key": "a", "path": "sub/a"}]}},
            {"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]}}));
        prepare(&pod, &objects(serde_json::json!({"a": "1"})), dir.path()).unwrap();
        let volume = dir.path().join("volumes/v");
        assert_eq!(fs::read_to_string(volume.join("sub/a")).unwrap(), "1");
        assert_eq!(
            fs::read_to_string(volume.join("labels")).unwrap(),
            "app=\"a\""
        );
    }

    #[test]
    fn sub_path_through_a_symlink_stays_in_the_volume_or_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("v"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("real")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, volume.join("escape")).unwrap();
        symlink("real", volume.join("alias")).unwrap();
        let find = |sub_path| sub_directory("v", &volume, sub_path);
        assert_eq!(find("alias/new").unwrap(), volume.join("real/new"));
        assert!(volume.join("real/new").is_dir());
        for sub_path in ["escape", "escape/new", "../outside", "/etc"] {
            assert!(
                matches!(find(sub_path), Err(VolumeError::Path { .. })),
                "{sub_path}"
            );
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
