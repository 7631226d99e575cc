//! Whom a container runs as.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::SpecError;
use crate::image::Image;

/// A larger passwd file is not one.
const ACCOUNT_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Numeric ids of a process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) additional_gids: Vec<u32>,
}

/// The container's user: its own settings, then the pod's, then the image's.
pub(super) fn resolve(
    pod: &Pod,
    container: &Container,
    image: &Image,
    layers_dir: &Path,
) -> Result<User, SpecError> {
    let own = container.security_context.as_ref();
    let pods = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref());
    let files = Files { image, layers_dir };
    let (mut uid, mut gid) = files.image_user()?;
    let id =
        |own: Option<i64>, pods: Option<i64>| own.or(pods).and_then(|id| u32::try_from(id).ok());
    if let Some(wanted) = id(
        own.and_then(|s| s.run_as_user),
        pods.and_then(|s| s.run_as_user),
    ) {
        if wanted != uid {
            gid = files.primary_group(wanted).unwrap_or(0);
        }
        uid = wanted;
    }
    if let Some(wanted) = id(
        own.and_then(|s| s.run_as_group),
        pods.and_then(|s| s.run_as_group),
    ) {
        gid = wanted;
    }
    let non_root = own
        .and_then(|s| s.run_as_non_root)
        .or_else(|| pods.and_then(|s| s.run_as_non_root));
    if non_root == Some(true) && uid == 0 {
        return Err(SpecError::Root);
    }
    let mut additional_gids: Vec<u32> = pods
        .and_then(|security| security.supplemental_groups.as_ref())
        .into_iter()
        .flatten()
        .copied()
        .chain(pods.and_then(|security| security.fs_group))
        .filter_map(|gid| u32::try_from(gid).ok())
        .collect();
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(User {
        uid,
        gid,
        additional_gids,
    })
}

/// Account files of an image.
struct Files<'a> {
    image: &'a Image,
    layers_dir: &'a Path,
}

impl Files<'_> {
    /// What the image's `User` says: `user`, `uid`, `user:group`, `uid:gid`.
    fn image_user(&self) -> Result<(u32, u32), SpecError> {
        let text = self.image.config.user.as_deref().unwrap_or_default();
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let (uid, primary) = match user.parse::<u32>() {
            _ if user.is_empty() => (0, 0),
            Ok(uid) => (uid, self.primary_group(uid).unwrap_or(0)),
            Err(_) => self
                .account(|fields| fields.first() == Some(&user))
                .ok_or_else(|| SpecError::UnknownUser(user.to_owned()))?,
        };
        let gid = match group {
            None => primary,
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => self
                    .line("etc/group", |fields| fields.first() == Some(&group))
                    .and_then(|fields| fields.get(2)?.parse().ok())
                    .ok_or_else(|| SpecError::UnknownGroup(group.to_owned()))?,
            },
        };
        Ok((uid, gid))
    }

    fn primary_group(&self, uid: u32) -> Option<u32> {
        let uid = uid.to_string();
        self.account(|fields| fields.get(2) == Some(&uid.as_str()))
            .map(|(_, gid)| gid)
    }

    fn account(&self, matches: impl Fn(&[&str]) -> bool) -> Option<(u32, u32)> {
        let fields = self.line("etc/passwd", matches)?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    }

    /// The first line of a colon-separated file for which `matches` holds.
    fn line(&self, path: &str, matches: impl Fn(&[&str]) -> bool) -> Option<Vec<String>> {
        // The topmost layer that has the file is the one the container will see.
        let text = self.image.layers.iter().rev().find_map(|layer| {
            let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
            let root = nix::fcntl::open(&self.layers_dir.join(layer), flags, Mode::empty()).ok()?;
            let how = OpenHow::new()
                .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
            let file = File::from(openat2(&root, path, how).ok()?);
            let mut text = String::new();
            file.take(ACCOUNT_FILE_BYTES_MAX)
                .read_to_string(&mut text)
                .ok()?;
            Some(text)
        })?;
        text.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            matches(&fields).then(|| fields.into_iter().map(str::to_owned).collect())
        })
    }
}
