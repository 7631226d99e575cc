//! Unpacking a layer's tar into a directory that it must not be able to leave.
//!
//! Every path is resolved by `openat2(RESOLVE_IN_ROOT)`: symlinks of earlier layers (`/var/run`)
//! are followed as the container would follow them, and never out of the root. The root is the
//! merged view of the layers below, so whiteouts are plain removals: overlayfs writes them down.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, makedev, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, symlinkat};
use tar::EntryType;

use crate::sys;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
/// Attributes of overlayfs itself: a layer that could set them could redirect directories.
const RESERVED_ATTRIBUTE: &str = "trusted.overlay.";

/// Unpacks the tar `layer` into `root`.
pub(super) fn unpack(layer: impl Read, root: &Path) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(root, flags, Mode::empty())?;
    let mut unpacking = Unpacking {
        root,
        touched: HashSet::new(),
        directory_times: Vec::new(),
    };
    let mut archive = tar::Archive::new(layer);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        unpacking.apply(&mut entry, &path).map_err(|error| {
            io::Error::new(error.kind(), format!("entry {}: {error}", path.display()))
        })?;
    }
    unpacking.finish()?;
    // What follows the end-of-archive mark still counts for the layer's digest.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

struct Unpacking {
    root: OwnedFd,
    /// What this layer itself made: an opaque whiteout removes all but that.
    touched: HashSet<PathBuf>,
    /// Set last, because making an entry in a directory changes them.
    directory_times: Vec<(PathBuf, TimeSpec)>,
}

impl Unpacking {
    fn apply(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: &Path) -> io::Result<()> {
        let path = inside(path)?;
        let Some(name) = path.file_name() else {
            return self.apply_root(entry);
        };
        let parent_path = path.parent().unwrap_or(Path::new(""));
        let parent = self.directory(parent_path)?;
        if name.as_bytes() == OPAQUE_WHITEOUT {
            return self.clear(&parent, parent_path);
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT_PREFIX) {
            return remove(&parent, OsStr::from_bytes(hidden));
        }
        let kind = entry.header().entry_type();
        self.make_room(&parent, name, kind.is_dir())?;
        self.touched.extend(path.ancestors().map(Path::to_owned));
        let header = entry.header();
        let mode = Mode::from_bits_truncate(header.mode()?);
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                let file = openat(&parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
                io::copy(entry, &mut File::from(file))?;
            }
            EntryType::Directory => match mkdirat(&parent, name, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            },
            EntryType::Symlink => symlinkat(link_name(entry)?.as_os_str(), &parent, name)?,
            EntryType::Link => {
                let target = link_name(entry)?;
                let target = inside(&target)?;
                let target_name = target
                    .file_name()
                    .ok_or_else(|| invalid("link to the root"))?;
                let target_parent = self.directory(target.parent().unwrap_or(Path::new("")))?;
                linkat(&target_parent, target_name, &parent, name, AtFlags::empty())?;
                // It shares the attributes of what it links to.
                return Ok(());
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let file_type = match kind {
                    EntryType::Char => SFlag::S_IFCHR,
                    EntryType::Block => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                let device = makedev(
                    header.device_major()?.unwrap_or(0).into(),
                    header.device_minor()?.unwrap_or(0).into(),
                );
                mknodat(&parent, name, file_type, mode, device)?;
            }
            // Headers of the format itself, and kinds nothing on Linux can be made of.
            _ => return Ok(()),
        }
        self.set_attributes(entry, &parent, name, mode)?;
        let header = entry.header();
        let modified = if is_blank(&header.as_old().mtime) {
            0
        } else {
            header.mtime()?
        };
        let modified = TimeSpec::new(i64::try_from(modified).unwrap_or(0), 0);
        if kind.is_dir() {
            self.directory_times.push((path, modified));
        } else {
            let flag = UtimensatFlags::NoFollowSymlink;
            utimensat(&parent, name, &modified, &modified, flag)?;
        }
        Ok(())
    }

    /// The entry of the root directory itself.
    fn apply_root(&self, entry: &tar::Entry<'_, impl Read>) -> io::Result<()> {
        let mode = Mode::from_bits_truncate(entry.header().mode()?);
        let (owner, group) = owners(entry)?;
        // Through /proc, since an O_PATH descriptor itself takes no changes.
        let path = descriptor_path(&self.root);
        nix::unistd::chown(&path, Some(owner), Some(group))?;
        fs::set_permissions(
            &path,
            std::os::unix::fs::PermissionsExt::from_mode(mode.bits()),
        )
    }

    /// Owner, then mode (a change of owner clears set-user-id), then extended attributes (it
    /// clears capabilities, too).
    fn set_attributes(
        &self,
        entry: &mut tar::Entry<'_, impl Read>,
        parent: &OwnedFd,
        name: &OsStr,
        mode: Mode,
    ) -> io::Result<()> {
        let (owner, group) = owners(entry)?;
        fchownat(
            parent,
            name,
            Some(owner),
            Some(group),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
        if entry.header().entry_type() != EntryType::Symlink {
            fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink)?;
        }
        let path = descriptor_path(parent).join(name);
        let Some(extensions) = entry.pax_extensions()? else {
            return Ok(());
        };
        for extension in extensions {
            let extension = extension?;
            let Some(attribute) = extension.key().ok().and_then(|key| {
                key.strip_prefix("SCHILY.xattr.")
                    .filter(|attribute| !attribute.starts_with(RESERVED_ATTRIBUTE))
            }) else {
                continue;
            };
            match sys::set_attribute(&path, attribute, extension.value_bytes()) {
                // The file system or the kernel has no such attribute: as tar(1), go on.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Removes what stands where a new entry goes; a directory stays for a directory.
    fn make_room(&self, parent: &OwnedFd, name: &OsStr, for_directory: bool) -> io::Result<()> {
        match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(found) => {
                let is_directory = found.st_mode & libc::S_IFMT == libc::S_IFDIR;
                if is_directory && for_directory {
                    Ok(())
                } else {
                    remove(parent, name)
                }
            }
        }
    }

    /// Removes what layers below put into a directory.
    fn clear(&self, directory: &OwnedFd, path: &Path) -> io::Result<()> {
        for entry in fs::read_dir(descriptor_path(directory))? {
            let name = entry?.file_name();
            if !self.touched.contains(&path.join(&name)) {
                remove(directory, &name)?;
            }
        }
        Ok(())
    }

    /// Opens a directory inside the root, making those that are missing.
    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open(path, OFlag::O_PATH) {
            Err(Errno::ENOENT) => {}
            other => return Ok(other?),
        }
        let mut walked = PathBuf::new();
        let mut directory = self.open(&walked, OFlag::O_PATH)?;
        for component in path.components() {
            walked.push(component);
            directory = match self.open(&walked, OFlag::O_PATH) {
                Err(Errno::ENOENT) => {
                    mkdirat(
                        &directory,
                        component.as_os_str(),
                        Mode::from_bits_truncate(0o755),
                    )?;
                    self.open(&walked, OFlag::O_PATH)?
                }
                other => other?,
            };
        }
        Ok(directory)
    }

    fn open(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, path, how)
    }

    fn finish(&self) -> io::Result<()> {
        for (path, modified) in &self.directory_times {
            // A later entry may have replaced the directory by something else.
            if let Ok(directory) = self.open(path, OFlag::O_RDONLY) {
                nix::sys::stat::futimens(directory.as_fd(), modified, modified)?;
            }
        }
        Ok(())
    }
}

/// `path` without its leading slash or dots; refused if it climbs.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(invalid("a path that climbs out"));
            }
        }
    }
    Ok(clean)
}

fn link_name(entry: &tar::Entry<'_, impl Read>) -> io::Result<PathBuf> {
    let name = entry
        .link_name()?
        .ok_or_else(|| invalid("a link without a target"))?;
    Ok(name.into_owned())
}

fn owners(entry: &tar::Entry<'_, impl Read>) -> io::Result<(Uid, Gid)> {
    let number = |id: u64| u32::try_from(id).map_err(|_| invalid("an owner beyond 32 bits"));
    let header = entry.header();
    let fields = header.as_old();
    let owner = if is_blank(&fields.uid) {
        0
    } else {
        header.uid()?
    };
    let group = if is_blank(&fields.gid) {
        0
    } else {
        header.gid()?
    };
    Ok((Uid::from_raw(number(owner)?), Gid::from_raw(number(group)?)))
}

/// Some writers leave numbers they do not care for blank; tar(1) reads those as 0.
fn is_blank(field: &[u8]) -> bool {
    field.iter().all(|byte| matches!(byte, 0 | b' '))
}

fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let path = descriptor_path(parent).join(name);
    let removed = match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
        Ok(_) => fs::remove_file(&path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn descriptor_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tar(tar::Builder<Vec<u8>>);

    impl Tar {
        fn new() -> Self {
            Self(tar::Builder::new(Vec::new()))
        }

        fn entry(mut self, kind: EntryType, path: &str, link: &str, data: &str) -> Self {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(if kind.is_dir() { 0o755 } else { 0o640 });
            header.set_mtime(1_000_000);
            header.set_size(data.len() as u64);
            // Names are written raw: the builder itself would refuse the malicious ones.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
            // Whoever runs the test may give files to itself.
            header.set_uid(nix::unistd::getuid().as_raw().into());
            header.set_gid(nix::unistd::getgid().as_raw().into());
            header.set_cksum();
            self.0.append(&header, data.as_bytes()).unwrap();
            self
        }

        fn unpack(self, root: &Path) -> io::Result<()> {
            unpack(self.0.into_inner().unwrap().as_slice(), root)
        }
    }

    #[test]
    fn symlinked_parent_is_followed_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        Tar::new()
            .entry(EntryType::Directory, "run/", "", "")
            .entry(EntryType::Symlink, "var/run", "/run", "")
            .entry(EntryType::Regular, "var/run/pid", "", "1")
            .unpack(dir.path())
            .unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("run/pid")).unwrap(), "1");
    }

    #[test]
    fn absolute_symlink_to_the_machine_stays_inside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().to_str().unwrap();
        Tar::new()
            .entry(EntryType::Symlink, "escape", target, "")
            .entry(EntryType::Regular, "escape/file", "", "x")
            .unpack(dir.path())
            .unwrap_err();
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn climbing_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("root");
        fs::create_dir(&inner).unwrap();
        let result = Tar::new()
            .entry(EntryType::Regular, "../outside", "", "x")
            .unpack(&inner);
        assert!(result.unwrap_err().to_string().contains("climbs"));
        assert!(!dir.path().join("outside").exists());
    }

    #[test]
    fn whiteout_removes_and_opaque_whiteout_keeps_only_the_layers_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/old")).unwrap();
        fs::write(dir.path().join("gone"), "").unwrap();
        Tar::new()
            .entry(EntryType::Regular, ".wh.gone", "", "")
            .entry(EntryType::Regular, "a/new", "", "")
            .entry(EntryType::Regular, "a/.wh..wh..opq", "", "")
            .unpack(dir.path())
            .unwrap();
        assert!(!dir.path().join("gone").exists());
        assert!(!dir.path().join("a/old").exists());
        assert!(dir.path().join("a/new").exists());
    }

    #[test]
    fn hardlinks_share_a_file_and_directory_times_survive_their_entries() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        Tar::new()
            .entry(EntryType::Directory, "d/", "", "")
            .entry(EntryType::Regular, "d/a", "", "text")
            .entry(EntryType::Link, "d/b", "d/a", "")
            .unpack(dir.path())
            .unwrap();
        let metadata = |name| fs::metadata(dir.path().join(name)).unwrap();
        assert_eq!(metadata("d/a").ino(), metadata("d/b").ino());
        assert_eq!(metadata("d/a").mode() & 0o7777, 0o640);
        assert_eq!(metadata("d").mtime(), 1_000_000);
    }
}
