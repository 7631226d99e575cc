//! Puts the eBPF object where `object.rs` embeds it from: what `cargo xtask build-ebpf` built, or an
//! empty stub when it was not run, so that plain `cargo check` and `cargo clippy` need no toolchain
//! for BPF.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let built = manifest.join("../../target/bpf/fairlead.o");
    let embedded = out.join("fairlead.o");
    println!("cargo::rerun-if-changed={}", built.display());
    match fs::read(&built) {
        Ok(object) => fs::write(&embedded, object),
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_stub(&embedded),
        Err(error) => Err(error),
    }
}

fn write_stub(path: &Path) -> io::Result<()> {
    fs::write(path, [])
}
