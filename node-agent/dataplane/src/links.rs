//! Programs at their hooks: pinned links, replaced in place, one of ours at each hook.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::net::if_::if_nametoindex;

use crate::loader::program_names;
use crate::sys::{self, Target};

/// Why a program is not at its hook.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such interface.
    #[error("find interface {name}")]
    Interface {
        /// Its name.
        name: String,
        /// What the kernel said.
        #[source]
        source: nix::Error,
    },
    /// A link could not be made, replaced, pinned or removed.
    #[error("{operation} link {}", path.display())]
    Link {
        /// What was tried.
        operation: &'static str,
        /// The link's pin.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Packets would be treated twice, or not at all.
    #[error("{count} programs named {program} at {hook} where exactly one of ours has to be")]
    NotOne {
        /// The program's name.
        program: &'static str,
        /// The hook, as its pin is called.
        hook: String,
        /// How many there are.
        count: usize,
    },
}

/// A place in the kernel that runs a program of ours.
#[derive(Clone, Copy, Debug)]
pub enum Hook<'a> {
    /// What an uplink receives, before the stack.
    Xdp {
        /// The uplink.
        ifindex: u32,
    },
    /// What an uplink receives, in the stack.
    Ingress {
        /// The uplink.
        ifindex: u32,
    },
    /// What an uplink sends.
    Egress {
        /// The uplink.
        ifindex: u32,
    },
    /// What a pod sends.
    Pod {
        /// The host's end of its veth.
        ifindex: u32,
    },
    /// An operation on the sockets of a cgroup.
    Cgroup {
        /// Its directory.
        directory: BorrowedFd<'a>,
        /// Which operation, as in linux/bpf.h.
        attach_type: u32,
        /// The program's name, which names the link too.
        name: &'static str,
    },
}

/// The prefix of pods' links.
const POD: &str = "pod-";

impl Hook<'_> {
    /// What the link's pin is called.
    fn file_name(&self) -> String {
        match self {
            Self::Xdp { ifindex } => format!("xdp-{ifindex}"),
            Self::Ingress { ifindex } => format!("ingress-{ifindex}"),
            Self::Egress { ifindex } => format!("egress-{ifindex}"),
            Self::Pod { ifindex } => format!("{POD}{ifindex}"),
            Self::Cgroup { name, .. } => (*name).to_owned(),
        }
    }

    /// The name of the program that belongs here.
    pub fn program(&self) -> &'static str {
        match self {
            Self::Xdp { .. } => "xdp_ingress",
            Self::Ingress { .. } => "tc_uplink_in",
            Self::Egress { .. } => "tc_uplink_out",
            Self::Pod { .. } => "tc_from_pod",
            Self::Cgroup { name, .. } => name,
        }
    }

    fn target(&self) -> Target<'_> {
        match *self {
            Self::Xdp { ifindex }
            | Self::Ingress { ifindex }
            | Self::Egress { ifindex }
            | Self::Pod { ifindex } => Target::Interface(ifindex),
            Self::Cgroup { directory, .. } => Target::Cgroup(directory),
        }
    }

    fn attach_type(&self) -> u32 {
        match *self {
            Self::Xdp { .. } => sys::XDP,
            Self::Ingress { .. } | Self::Pod { .. } => sys::TCX_INGRESS,
            Self::Egress { .. } => sys::TCX_EGRESS,
            Self::Cgroup { attach_type, .. } => attach_type,
        }
    }
}

/// What is at a hook, by the kernel's ids (`bpftool link`, `bpftool prog`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The link, which stays when its program is replaced.
    pub link: u32,
    /// The program.
    pub program: u32,
}

/// The pinned links of a node.
#[derive(Clone, Debug)]
pub struct Links {
    directory: PathBuf,
}

impl Links {
    /// The links pinned in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The tag of the program that is attached at a hook, if one of ours is.
    pub fn program_tag(&self, hook: &Hook<'_>) -> Result<Option<[u8; 8]>, Error> {
        let path = self.directory.join(hook.file_name());
        let Some(link) = sys::pinned(&path).map_err(of("open", &path))? else {
            return Ok(None);
        };
        let program =
            sys::linked_program(link.as_fd()).map_err(of("ask for the program of", &path))?;
        let tag = sys::program_tag(program.as_fd()).map_err(of("ask for the program of", &path))?;
        Ok(Some(tag))
    }

    /// What is attached, by the links' names.
    pub fn attachments(&self) -> Result<BTreeMap<String, Attachment>, Error> {
        let entries = fs::read_dir(&self.directory).map_err(of("list", &self.directory))?;
        let mut attachments = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(of("list", &self.directory))?;
            let path = entry.path();
            // A pod's may go meanwhile.
            if let Some(link) = sys::pinned(&path).map_err(of("open", &path))? {
                let info = sys::link_info(link.as_fd()).map_err(of("ask about", &path))?;
                let attachment = Attachment {
                    link: info.id,
                    program: info.program,
                };
                attachments.insert(entry.file_name().to_string_lossy().into_owned(), attachment);
            }
        }
        Ok(attachments)
    }

    /// Puts `program` at `hook` as [`Self::put`] does, and asserts that it is the only one of ours.
    pub fn attach(&self, hook: &Hook<'_>, program: BorrowedFd<'_>) -> Result<(), Error> {
        self.put(hook, program)?;
        expect_one(hook)
    }

    /// Puts `program` at `hook`: into the pinned link, if there is one, else by a new one.
    pub fn put(&self, hook: &Hook<'_>, program: BorrowedFd<'_>) -> Result<(), Error> {
        let path = self.directory.join(hook.file_name());
        if !replace(&path, program)? {
            let link = create(hook, program).map_err(of("create", &path))?;
            sys::pin(link.as_fd(), &path).map_err(of("pin", &path))?;
        }
        Ok(())
    }

    /// Takes over the links pinned in another directory of the same file system, with the programs
    /// they have.
    pub fn adopt(&self, other: &Path) -> Result<(), Error> {
        let entries = match fs::read_dir(other) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(of("list", other)(error)),
        };
        let names: io::Result<Vec<_>> = entries.map(|entry| entry.map(|e| e.file_name())).collect();
        for name in names.map_err(of("list", other))? {
            let path = other.join(&name);
            fs::rename(&path, self.directory.join(&name)).map_err(of("move", &path))?;
        }
        Ok(())
    }

    /// Detaches the program at `hook`, if one is attached there.
    pub fn detach(&self, hook: &Hook<'_>) -> Result<(), Error> {
        remove(&self.directory.join(hook.file_name()))
    }

    /// Puts `program` into every pod's link, and removes those whose veth has gone.
    pub fn replace_pods(&self, program: BorrowedFd<'_>) -> Result<(), Error> {
        let entries = fs::read_dir(&self.directory).map_err(of("list", &self.directory))?;
        for entry in entries {
            let path = entry.map_err(of("list", &self.directory))?.path();
            let is_pod = path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(POD.as_bytes()));
            if is_pod {
                // A dead link is removed by this; nothing is attached anew.
                replace(&path, program)?;
            }
        }
        Ok(())
    }
}

/// Replaces the program of the link pinned at `path`; false if there is none, or one whose
/// interface or cgroup has gone, which is removed.
fn replace(path: &Path, program: BorrowedFd<'_>) -> Result<bool, Error> {
    let Some(link) = sys::pinned(path).map_err(of("open", path))? else {
        return Ok(false);
    };
    match sys::link_update(link.as_fd(), program) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            remove(path)?;
            Ok(false)
        }
        Err(source) => Err(of("replace the program of", path)(source)),
    }
}

fn create(hook: &Hook<'_>, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let link = |flags| sys::link_create(program, hook.target(), hook.attach_type(), flags);
    match hook {
        Hook::Xdp { ifindex } => match link(sys::XDP_DRIVER) {
            Err(error) if is_unsupported(&error) => {
                tracing::warn!(ifindex, %error, "no XDP in this driver, running it on skbs");
                link(sys::XDP_GENERIC)
            }
            result => result,
        },
        // Other owners may attach to the same cgroup, and to cgroups below.
        Hook::Cgroup { .. } | Hook::Ingress { .. } | Hook::Egress { .. } | Hook::Pod { .. } => {
            link(0)
        }
    }
}

/// Asserts that the kernel runs exactly one program of this name at the hook. A second one can only
/// come from another bpffs or an older layout, and would treat every packet twice.
pub(crate) fn expect_one(hook: &Hook<'_>) -> Result<(), Error> {
    // One at most: the kernel's own rule for XDP.
    if matches!(hook, Hook::Xdp { .. }) {
        return Ok(());
    }
    let ids = sys::attached(hook.target(), hook.attach_type())
        .map_err(of("query the hook of", Path::new(&hook.file_name())))?;
    let name = kernel_name(hook.program());
    let count = program_names(&ids)
        .iter()
        .filter(|found| *found == name)
        .count();
    if count == 1 {
        return Ok(());
    }
    Err(Error::NotOne {
        program: hook.program(),
        hook: hook.file_name(),
        count,
    })
}

/// A name as the kernel keeps it: 15 bytes.
fn kernel_name(name: &str) -> &str {
    name.get(..15).unwrap_or(name)
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE)
    )
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(of("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The index of an interface of this network namespace.
pub fn interface_index(name: &str) -> Result<u32, Error> {
    let source = |source| Error::Interface {
        name: name.to_owned(),
        source,
    };
    let c_name = CString::new(name).map_err(|_| source(nix::Error::EINVAL))?;
    if_nametoindex(c_name.as_c_str()).map_err(source)
}

fn of(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Link {
        operation,
        path: path.to_owned(),
        source,
    }
}
