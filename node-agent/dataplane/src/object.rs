//! The eBPF object that this binary carries.

/// The object, aligned as an ELF file has to be. Empty in a build without the BPF toolchain.
static EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fairlead.o"));

/// The binary carries no programs.
#[derive(Debug, thiserror::Error)]
#[error("built without the eBPF object: run `cargo xtask build-ebpf`, then build again")]
pub struct Missing;

/// The node's programs.
pub fn embedded() -> Result<&'static [u8], Missing> {
    if EMBEDDED.is_empty() {
        Err(Missing)
    } else {
        Ok(EMBEDDED)
    }
}
