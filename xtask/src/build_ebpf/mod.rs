//! Compiles the eBPF programs: `dataplane-ebpf` → `target/bpf/*.o`.
//!
//! The target has no prebuilt `core`, so the compiler must have its own sources at hand
//! (`-Zbuild-std`), and `bpf-linker` makes one object of the bitcode.
//!
//! An object whose programs take more stack than the oldest kernel grants is refused here, with the
//! functions that take it: that kernel would only say that it is too much.

mod functions;
mod stack;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

pub(crate) use stack::Chain;

const TARGET: &str = "bpfel-unknown-none";

/// The objects that are built: the node's programs first, then those of the benchmarks.
const OBJECTS: [&str; 3] = ["fairlead", "measured", "traffic"];

/// Debug information becomes BTF, which names types and source lines to the verifier and bpftool.
/// `v3` has 32-bit operations and jumps; kernels run it since 5.1.
const RUSTFLAGS: &str = "-Cdebuginfo=2 -Clink-arg=--btf -Ctarget-cpu=v3";

/// What was built.
pub(crate) struct Built {
    /// The object that the agent embeds.
    pub(crate) object: PathBuf,
    /// Its functions that together take most of the stack.
    pub(crate) deepest: Chain,
}

/// Builds the programs of the workspace at `root`.
///
/// # Errors
/// Something does not compile, or takes too much of the stack.
pub(crate) fn run(root: &Path) -> Result<Built> {
    let rustc = find_compiler()?;
    let linker = find_linker()?;
    let package = root.join("dataplane-ebpf");
    let target_dir = root.join("target").join("bpf-build");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(&package)
        .args([
            "build",
            "--release",
            "--locked",
            "--bins",
            "-Zbuild-std=core",
        ])
        .args(["--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("RUSTC", &rustc)
        .env("RUSTFLAGS", RUSTFLAGS)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker)
        // `-Zbuild-std` is unstable in cargo and in the compiler, whichever they are.
        .env("RUSTC_BOOTSTRAP", "1")
        // What an outer cargo or clippy set for its own build does not hold for this one.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTUP_TOOLCHAIN");
    let status = cargo.status().context("run cargo for dataplane-ebpf")?;
    if !status.success() {
        bail!(
            "dataplane-ebpf does not compile ({status}; {})",
            rustc.display()
        );
    }

    let release = target_dir.join(TARGET).join("release");
    let deepest = check_stack(&release.join("fairlead"))?;
    let out = root.join("target").join("bpf");
    fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    for object in OBJECTS {
        publish(&release.join(object), &out.join(format!("{object}.o")))?;
    }
    let object = out.join("fairlead.o");
    Ok(Built { object, deepest })
}

/// The deepest chain of calls in an object.
///
/// # Errors
/// It takes more of the stack than there is.
fn check_stack(object: &Path) -> Result<Chain> {
    let deepest = stack::deepest(&functions::read(object)?)
        .with_context(|| format!("{} has no function", object.display()))?;
    if deepest.depth() > stack::CHAIN_MAX {
        bail!(
            "of the {} bytes of stack that Linux 6.1 grants, the programs take {deepest}",
            stack::CHAIN_MAX
        );
    }
    Ok(deepest)
}

/// Copies an object into place, unless it is there already: whatever embeds it would be built anew.
fn publish(built: &Path, object: &Path) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("read {}", built.display()))?;
    if fs::read(object).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    fs::write(object, bytes).with_context(|| format!("write {}", object.display()))
}

/// The first compiler that has its library's sources: `$FAIRLEAD_BPF_RUSTC`, rustup's nightly,
/// the distribution's.
pub(crate) fn find_compiler() -> Result<PathBuf> {
    let chosen = env::var_os("FAIRLEAD_BPF_RUSTC").map(PathBuf::from);
    let candidates = [chosen, nightly(), Some(PathBuf::from("/usr/bin/rustc"))];
    for rustc in candidates.into_iter().flatten() {
        if is_usable(&rustc).unwrap_or(false) {
            return Ok(rustc);
        }
    }
    bail!(
        "no Rust compiler with the sources of its standard library was found: \
         `cargo xtask setup` installs one (Debian: rustc-web and rust-web-src; \
         rustup: `rustup toolchain install nightly -c rust-src`)"
    )
}

fn nightly() -> Option<PathBuf> {
    let output = Command::new("rustup")
        .args(["which", "--toolchain", "nightly", "rustc"])
        .output();
    let path = output.ok().filter(|output| output.status.success())?.stdout;
    Some(PathBuf::from(String::from_utf8(path).ok()?.trim()))
}

/// Whether a compiler runs, is new enough for the language the programs are written in, and
/// has `core`'s sources below its sysroot.
fn is_usable(rustc: &Path) -> Option<bool> {
    /// The minor version that the crate's `rust-version` names.
    const MINOR_MIN: u32 = 95;
    let ask = |arguments: &[&str]| {
        let output = Command::new(rustc).args(arguments).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let version = ask(&["--version"])?;
    let minor: u32 = version.split(['.', ' ']).nth(2)?.parse().ok()?;
    let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?);
    let sources = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    Some(minor >= MINOR_MIN && sources.exists())
}

/// `bpf-linker`, in `PATH` or where `cargo install` puts it.
pub(crate) fn find_linker() -> Result<PathBuf> {
    const NAME: &str = "bpf-linker";
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(home.map(|home| home.join("bin")))
        .map(|folder| folder.join(NAME))
        .find(|file| file.is_file())
        .context("bpf-linker was not found: `cargo xtask setup` installs it")
}
