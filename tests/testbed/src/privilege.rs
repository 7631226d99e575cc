//! Whether this process may make namespaces, and has programs to load.

/// True, after printing why, when the calling test must be skipped because it does not run as
/// root.
///
/// # Panics
/// In CI (`CI` is set) a skip is a failure.
pub fn skip_without_root() -> bool {
    skip_unless(nix::unistd::geteuid().is_root(), "root")
}

/// The same of a test that loads programs, which has their object or not.
///
/// # Panics
/// In CI (`CI` is set) a skip is a failure.
pub fn skip_without_programs(has_object: bool) -> bool {
    skip_without_root() || skip_unless(has_object, "the eBPF object: run cargo xtask build-ebpf")
}

fn skip_unless(is_there: bool, what: &str) -> bool {
    if is_there {
        return false;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "CI runs every test, and this one needs {what}"
    );
    println!("SKIP: needs {what}");
    true
}
