//! Volumes of a pod: made, renewed, and mounted into its containers.

mod place;
mod projection;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use self::place::{check_host_path, sub_directory};
use self::projection::write_projection;
use crate::objects::{Objects, ReferenceError};
use crate::quantity;
use crate::shim::protocol::Tmpfs;
use crate::spec::{BindMount, Surroundings};

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
}

fn is_in_memory(volume: &Volume) -> bool {
    let medium = volume
        .empty_dir
        .as_ref()
        .and_then(|empty_dir| empty_dir.medium.as_deref());
    medium == Some("Memory")
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
}
