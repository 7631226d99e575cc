//! Network namespaces as hosts.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::passing::PassingProgram;
use crate::sys::{self, Entry};

/// Where iproute2 keeps named network namespaces.
const NAMED: &str = "/run/netns";

/// An open network namespace: what can be done in one, whoever owns it.
#[derive(Debug)]
pub struct NetNsHandle {
    path: PathBuf,
    file: File,
}

/// A named network namespace of ours, removed when this value is dropped.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    handle: NetNsHandle,
    owned: bool,
}

impl NetNs {
    /// Makes the namespace `name`, with its loopback up.
    ///
    /// # Errors
    /// A namespace of this name exists, or this process may not make one.
    pub fn create(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))
            .with_context(|| format!("make network namespace {name}"))?;
        let mut made = Self::open(name)?;
        made.owned = true;
        made.ip("link set lo up")?;
        Ok(made)
    }

    /// Makes a namespace whose name no other has: `label`, this process's id and a counter.
    ///
    /// # Errors
    /// This process may not make one.
    pub fn unique(label: &str) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        Self::create(&format!("fl-{label}-{}-{count}", std::process::id()))
    }

    /// Opens an existing namespace, which dropping this value leaves in place.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn open(name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            handle: NetNsHandle::open(Path::new(NAMED).join(name))?,
            owned: false,
        })
    }

    /// The names of all named namespaces.
    ///
    /// # Errors
    /// The folder of names exists and cannot be read.
    pub fn names() -> Result<Vec<String>> {
        let entries = match fs::read_dir(NAMED) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context("list network namespaces"),
        };
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<Vec<_>>>()
            .context("list network namespaces")?;
        names.sort();
        Ok(names)
    }

    /// Removes the namespace `name` and all links in it.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn delete(name: &str) -> Result<()> {
        run(Command::new("ip").args(["netns", "delete", name]))
            .with_context(|| format!("remove network namespace {name}"))
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Leaves the namespace in place when this value is dropped.
    pub fn keep(&mut self) {
        self.owned = false;
    }
}

impl std::ops::Deref for NetNs {
    type Target = NetNsHandle;

    fn deref(&self) -> &NetNsHandle {
        &self.handle
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = Self::delete(&self.name)
        {
            eprintln!("{error:#}");
        }
    }
}

impl NetNsHandle {
    /// Opens the namespace at `path`: a bind mount, or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// There is none.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let file = File::open(&path)
            .with_context(|| format!("open network namespace {}", path.display()))?;
        Ok(Self { path, file })
    }

    /// The path the namespace was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle on the open namespace.
    ///
    /// # Errors
    /// This process has too many files open.
    pub fn file(&self) -> Result<File> {
        self.file
            .try_clone()
            .context("duplicate a namespace handle")
    }

    /// A command that will run in the namespace.
    ///
    /// # Errors
    /// This process has too many files open.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = Command::new(program);
        sys::enter(
            &mut command,
            Entry {
                netns: Some(self.file()?),
                ..Entry::default()
            },
        );
        Ok(command)
    }

    /// Runs `work` on a thread of its own that is in the namespace. Sockets it opens stay there
    /// wherever they are passed.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("enter {}", self.path.display()))?;
                Ok(work())
            });
            match worker.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs one `ip` command in the namespace; `arguments` are separated by spaces.
    ///
    /// # Errors
    /// The command failed; the error holds what it printed.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut command = self.command("ip")?;
        command.args(arguments.split_whitespace());
        output(&mut command)
    }

    /// Runs many `ip` commands in the namespace by one process.
    ///
    /// # Errors
    /// One failed; those before it have taken effect.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut child = self
            .command("ip")?
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("run ip")?;
        let mut script = lines.join("\n");
        script.push('\n');
        child
            .stdin
            .take()
            .expect("its standard input is a pipe")
            .write_all(script.as_bytes())
            .context("hand commands to ip")?;
        let done = child.wait_with_output().context("wait for ip")?;
        ensure!(
            done.status.success(),
            "ip in {}: {}\n{script}",
            self.path.display(),
            String::from_utf8_lossy(&done.stderr).trim()
        );
        Ok(())
    }

    /// Sets a `net.*` sysctl of the namespace, such as `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// There is no such setting, or it refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        // What /proc/sys/net shows depends on the namespace of the thread that opens it.
        self.run(|| fs::write(&path, value))?
            .with_context(|| format!("set {key} to {value} in {}", self.path.display()))
    }

    /// Lets a veth take frames that its peer sends from XDP as a card would, at once: attaches a
    /// program that passes everything. The kernel wakes the receiver of an `XDP_TX` only if it has
    /// a program of its own (`veth_xdp_flush` in drivers/net/veth.c); without one, frames wait for
    /// the next ordinary packet.
    ///
    /// # Errors
    /// There is no such device, or it has a program already.
    pub fn take_xdp_frames(&self, device: &str) -> Result<()> {
        let pass = PassingProgram::load()?;
        let path = pass.path();
        self.ip(&format!(
            "link set dev {device} xdpdrv pinned {}",
            path.display()
        ))
        .map(drop)
    }

    /// Gives a veth real checksums and a NAPI context, as the ends of a wire have: without the
    /// first, an encapsulated packet carries a checksum nobody filled in; without the second,
    /// frames sent from XDP into the link are lost.
    ///
    /// # Errors
    /// There is no such device.
    pub fn make_wire_like(&self, device: &str) -> Result<()> {
        run(self
            .command("ethtool")?
            .args(["-K", device, "tx", "off", "gro", "on"]))
        .with_context(|| format!("set offloads of {device} in {}", self.path.display()))
    }
}

/// Runs a command to its end and returns what it printed.
fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {command:?}"))?;
    ensure!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::skip_without_root;

    #[test]
    fn a_dropped_namespace_is_gone() {
        if skip_without_root() {
            return;
        }
        let ns = NetNs::unique("gone").expect("make a namespace");
        let name = ns.name().to_owned();
        assert!(NetNs::names().expect("list").contains(&name));
        drop(ns);
        assert!(!NetNs::names().expect("list").contains(&name));
    }

    #[test]
    fn a_thread_that_ran_in_a_namespace_leaves_the_caller_where_it_was() {
        if skip_without_root() {
            return;
        }
        let own = || fs::read_link("/proc/thread-self/ns/net").expect("read own namespace");
        let ns = NetNs::unique("thread").expect("make a namespace");
        let before = own();
        let inside = ns.run(own).expect("enter");
        assert_ne!(before, inside);
        assert_eq!(before, own());
    }

    #[test]
    fn two_namespaces_joined_by_a_veth_speak_tcp() {
        if skip_without_root() {
            return;
        }
        let left = NetNs::unique("left").expect("make a namespace");
        let right = NetNs::unique("right").expect("make a namespace");
        left.ip_batch(&[
            format!(
                "link add eth0 type veth peer name eth0 netns {}",
                right.name()
            ),
            "addr add 198.18.0.1/30 dev eth0".to_owned(),
            "link set eth0 up".to_owned(),
        ])
        .expect("configure the left end");
        right
            .ip_batch(&[
                "addr add 198.18.0.2/30 dev eth0".to_owned(),
                "link set eth0 up".to_owned(),
            ])
            .expect("configure the right end");
        left.make_wire_like("eth0").expect("left offloads");
        right.make_wire_like("eth0").expect("right offloads");
        right.sysctl("net.ipv4.ip_forward", "1").expect("sysctl");

        let listener = right
            .run(|| TcpListener::bind("198.18.0.2:0"))
            .expect("enter")
            .expect("bind");
        let address = listener.local_addr().expect("bound");
        let stream = left
            .run(|| TcpStream::connect(address))
            .expect("enter")
            .expect("connect");
        let (accepted, peer) = listener.accept().expect("accept");
        assert_eq!(peer.ip().to_string(), "198.18.0.1");
        drop(accepted);
        let read = (&stream).read(&mut [0; 1]).expect("read the end");
        assert_eq!(read, 0);
    }

    #[test]
    fn a_command_runs_in_the_namespace() {
        if skip_without_root() {
            return;
        }
        let ns = NetNs::unique("command").expect("make a namespace");
        let links = ns.ip("-o link show").expect("list links");
        assert!(links.lines().all(|line| !line.contains("eth0")), "{links}");
    }

    #[test]
    fn a_failing_ip_command_says_what_ip_said() {
        if skip_without_root() {
            return;
        }
        let ns = NetNs::unique("failing").expect("make a namespace");
        let error = ns
            .ip_batch(&["link set nowhere up".to_owned()])
            .expect_err("no such link");
        assert!(format!("{error:#}").contains("nowhere"), "{error:#}");
    }
}
