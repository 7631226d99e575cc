//! The example application as an OCI image: the same sources give the same bytes.

use std::fs::{self, File};
use std::io::Write;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use testbed::{Progress, Workspace};

use crate::cargo;

/// The name under which nodes know the image.
const NAME: &str = "fairlead/hello:0.1";

/// The one target that is built: a statically linked program needs nothing of the image.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds hello statically and packs it.
///
/// # Errors
/// It does not build, or the target folder cannot be written.
pub(crate) fn build(workspace: &Workspace, progress: &Progress) -> Result<()> {
    progress.step(format!("build: image {NAME}"));
    // A folder of its own: other flags would make cargo rebuild what it shares.
    let folder = workspace.target().join("static");
    let mut command = cargo::command(
        workspace,
        &format!("build --quiet --release --package hello --target {TARGET} --target-dir"),
    );
    command.arg(&folder).env(
        "RUSTFLAGS",
        format!(
            "-C target-feature=+crt-static --remap-path-prefix={}=.",
            workspace.root().display()
        ),
    );
    cargo::run_to_end(&mut command, "cargo build of hello")?;
    let program = fs::read(folder.join(TARGET).join("release/hello")).context("read hello")?;

    let image = workspace.hello_image();
    let parent = image.parent().expect("the image is in a folder");
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    fs::copy(
        folder.join(TARGET).join("release/hello"),
        workspace.hello_program(),
    )
    .context("copy hello")?;
    let mut file = File::create(&image).with_context(|| format!("make {}", image.display()))?;
    file.write_all(&pack(&program)?)
        .with_context(|| format!("write {}", image.display()))?;
    progress.step(format!("build: {}", image.display()));
    Ok(())
}

/// An OCI image layout in a tar archive: <https://github.com/opencontainers/image-spec>,
/// image-layout.md.
fn pack(program: &[u8]) -> Result<Vec<u8>> {
    let mut layer = archive();
    append(&mut layer, "hello", program, 0o755)?;
    let layer = layer.into_inner().context("finish the layer")?;

    let config = to_bytes(&json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": ["/hello"],
            "ExposedPorts": {"8080/tcp": {}, "8080/udp": {}},
            "User": "65532:65532",
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        "history": [{"created_by": "cargo xtask image"}],
    }))?;
    let manifest = to_bytes(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": NAME,
        "io.containerd.image.name": format!("docker.io/{NAME}"),
    });
    let index = to_bytes(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }))?;

    let mut image = archive();
    append(
        &mut image,
        "oci-layout",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
        0o644,
    )?;
    append(&mut image, "index.json", &index, 0o644)?;
    for blob in [&config, &manifest, &layer] {
        append(&mut image, &blob_path(blob), blob, 0o644)?;
    }
    image.into_inner().context("finish the image")
}

fn archive() -> tar::Builder<Vec<u8>> {
    tar::Builder::new(Vec::new())
}

/// Adds a file that was never touched by anyone in particular.
fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    archive
        .append_data(&mut header, path, data)
        .with_context(|| format!("pack {path}"))
}

fn to_bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context("write JSON")
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn digest(blob: &[u8]) -> String {
    let hex: String = Sha256::digest(blob)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

fn blob_path(blob: &[u8]) -> String {
    format!("blobs/{}", digest(blob).replace(':', "/"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).expect("data");
            files.insert(path, data);
        }
        files
    }

    #[test]
    fn every_descriptor_leads_to_a_blob_of_its_digest_and_size() {
        let files = unpack(&pack(b"program").expect("pack"));
        let read = |descriptor: &Value| {
            let name = descriptor["digest"].as_str().expect("a digest");
            let blob = &files[&format!("blobs/{}", name.replace(':', "/"))];
            assert_eq!(digest(blob), name);
            assert_eq!(descriptor["size"], blob.len());
            blob.clone()
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).expect("index");
        let entry = &index["manifests"][0];
        assert_eq!(
            entry["annotations"]["org.opencontainers.image.ref.name"],
            NAME
        );
        let manifest: Value = serde_json::from_slice(&read(entry)).expect("manifest");
        let config: Value = serde_json::from_slice(&read(&manifest["config"])).expect("config");
        let layer = read(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&layer));
        assert_eq!(unpack(&layer)["hello"], b"program");
    }

    #[test]
    fn the_same_program_gives_the_same_bytes() {
        assert_eq!(pack(b"a").expect("pack"), pack(b"a").expect("pack"));
    }
}
