//! The one unsafe corner: what a child does between fork and exec, and the system call `bpf(2)`.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, setns};

/// The first file descriptor a program started by socket activation finds, as
/// `sd_listen_fds(3)` has it.
const LISTEN_FDS_START: i32 = 3;

/// What a child becomes before it runs its program. Every file is opened in the parent, because
/// the child must not allocate.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// The network namespace to enter.
    pub(crate) netns: Option<File>,
    /// The `cgroup.procs` files to join.
    pub(crate) cgroups: Vec<File>,
    /// Whether the child leads a session of its own, out of reach of the terminal's signals.
    pub(crate) new_session: bool,
    /// A listening socket that becomes descriptor 3.
    pub(crate) listener: Option<OwnedFd>,
}

/// Makes `command` do what `entry` says before it runs its program.
pub(crate) fn enter(command: &mut Command, mut entry: Entry) {
    let before_exec = move || -> io::Result<()> {
        if entry.new_session {
            nix::unistd::setsid()?;
        }
        for procs in &mut entry.cgroups {
            procs.write_all(b"0")?;
        }
        if let Some(netns) = &entry.netns {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
        }
        if let Some(listener) = &entry.listener {
            pass_as_first(listener)?;
        }
        Ok(())
    };
    // SAFETY: the closure runs in the forked child and makes only system calls (setsid, write,
    // setns, dup2, fcntl), all of which are async-signal-safe; it takes no lock and does not
    // allocate, since every file was opened by the parent.
    unsafe {
        command.pre_exec(before_exec);
    }
}

/// Puts a copy of `listener` at descriptor 3, open across exec.
fn pass_as_first(listener: &OwnedFd) -> io::Result<()> {
    let raw = listener.as_raw_fd();
    // SAFETY: dup2 and fcntl on a descriptor this process owns; whatever was at descriptor 3 is
    // close-on-exec and not used by the child again.
    let outcome = unsafe {
        if raw == LISTEN_FDS_START {
            libc::fcntl(raw, libc::F_SETFD, 0)
        } else {
            libc::dup2(raw, LISTEN_FDS_START)
        }
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `union bpf_attr` as far as BPF_PROG_LOAD and BPF_OBJ_PIN use it (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    padding: [u64; 13],
}

#[repr(C)]
#[derive(Default)]
struct ObjectPin {
    path: u64,
    descriptor: u32,
    padding: [u32; 29],
}

/// Loads the XDP program `return XDP_PASS` and pins it at `path`, on a bpffs.
pub(crate) fn pin_passing_program(path: &Path) -> io::Result<()> {
    const PROG_LOAD: libc::c_int = 5;
    const OBJ_PIN: libc::c_int = 6;
    const PROG_TYPE_XDP: u32 = 6;
    /// `r0 = 2 (XDP_PASS)`, `exit`.
    const INSTRUCTIONS: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];

    let path = CString::new(path.as_os_str().as_bytes())?;
    let load = ProgramLoad {
        program_type: PROG_TYPE_XDP,
        instruction_count: INSTRUCTIONS.len() as u32,
        instructions: INSTRUCTIONS.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..ProgramLoad::default()
    };
    // SAFETY: the attribute and all it points to live until the call returns; the size is the
    // attribute's own, and the kernel takes trailing zeros.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_LOAD,
            &raw const load,
            size_of_val(&load),
        )
    };
    let Ok(descriptor @ 0..) = i32::try_from(descriptor) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: the kernel has just made the descriptor for this process, and nobody else has it.
    let program = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let pin = ObjectPin {
        path: path.as_ptr() as u64,
        descriptor: program.as_raw_fd() as u32,
        ..ObjectPin::default()
    };
    // SAFETY: as above.
    let pinned =
        unsafe { libc::syscall(libc::SYS_bpf, OBJ_PIN, &raw const pin, size_of_val(&pin)) };
    if pinned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
