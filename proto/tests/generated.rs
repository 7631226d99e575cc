//! The checked-in bindings are what `protoc` makes of the `.proto` files today.

use std::{fs, path::Path};

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a temporary directory");
    tonic_prost_build::configure()
        .out_dir(out.path())
        .emit_rerun_if_changed(false)
        .bytes(".")
        .compile_protos(
            &[root.join("proto/node.proto"), root.join("proto/raft.proto")],
            &[root.join("proto")],
        )
        .expect("protoc accepts the files (Debian: protobuf-compiler)");
    for name in ["fairlead.node.v1.rs", "fairlead.raft.v1.rs"] {
        let made = fs::read_to_string(out.path().join(name)).expect("protoc wrote the file");
        let kept_at = root.join("src/generated").join(name);
        if std::env::var_os("FAIRLEAD_BLESS").is_some() {
            fs::write(&kept_at, &made).expect("src/generated is writable");
        }
        let kept = fs::read_to_string(&kept_at).unwrap_or_default();
        assert!(
            kept == made,
            "{name} is stale: run FAIRLEAD_BLESS=1 cargo test -p fairlead-proto"
        );
    }
}
