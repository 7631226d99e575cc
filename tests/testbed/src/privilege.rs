//! Whether this process may make namespaces.

/// True, after printing why, when the calling test must be skipped because it does not run as
/// root.
///
/// # Panics
/// In CI (`CI` is set) a skip is a failure.
pub fn skip_without_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "this test needs root, and CI runs every test"
    );
    println!("SKIP: needs root");
    true
}
