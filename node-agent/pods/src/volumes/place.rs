//! Where on the node a volume, or a part of it, lies.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::VolumeError;

/// Whether the node has what a `hostPath` expects there; makes what it may make.
pub(super) fn check_host_path(
    volume: &str,
    host: &HostPathVolumeSource,
) -> Result<(), VolumeError> {
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

/// A path below a volume's root, if it stays there.
pub(super) fn relative(volume: &str, path: &str) -> Result<PathBuf, VolumeError> {
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

/// The place below a volume's root that a subPath means, made where it is missing. Containers write
/// into volumes: a symlink one of them left must not lead another out to the node's files.
pub(super) fn sub_directory(
    volume: &str,
    root: &Path,
    sub_path: &str,
) -> Result<PathBuf, VolumeError> {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

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
