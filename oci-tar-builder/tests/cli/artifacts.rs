//! CNCF wasm artifacts.

use oci_tar_builder::Digest;
use serde_json::Value;

use crate::archive::Archive;
use crate::command::Folder;

fn config(archive: &Archive) -> Value {
    let manifest = archive.manifest();
    assert_eq!(manifest.config().media_type().to_string(), "application/vnd.wasm.config.v0+json");
    assert_eq!(manifest.layers().len(), 1);
    assert_eq!(manifest.layers()[0].media_type().to_string(), "application/wasm");
    serde_json::from_slice(archive.blob(manifest.config())).unwrap()
}

/// A module's config has the fields that are due and no others.
#[test]
fn packs_a_module() {
    let folder = Folder::new();
    let archive = folder.pack(&["--module", "demo.wasm", "--as-artifact"]);
    assert_eq!(
        config(&archive),
        serde_json::json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": "wasm",
            "os": "wasip1",
            "layerDigests": [Digest::of(&folder.read("demo.wasm")).to_string()],
        })
    );
    assert!(!archive.files.contains_key("manifest.json"), "Docker cannot run an artifact");
}

/// A component's config names its imports, its exports and its target world.
#[test]
fn packs_a_component() {
    let archive = Folder::new().pack(&["--module", "greet.wasm", "--as-artifact"]);
    let config = config(&archive);
    assert_eq!(config["os"], "wasip2");
    assert_eq!(
        config["component"],
        serde_json::json!({
            "exports": ["wasi:cli/run@0.2.6"],
            "imports": ["wasi:io/poll@0.2.6"],
            "target": "wasi:cli/command@0.2.6",
        })
    );
}

/// An artifact can stand in an index too, and its manifest can have annotations.
#[test]
fn wraps_in_an_index() {
    let archive = Folder::new().pack(&["-m", "demo.wasm", "--as-artifact", "--platform-index", "--annotation", "a=b"]);
    let index = archive.index();
    assert_eq!(index.manifests()[0].platform().as_ref().unwrap().os().to_string(), "wasip1");
    let manifest: Value = serde_json::from_slice(archive.blob(&index.manifests()[0])).unwrap();
    assert_eq!(manifest["annotations"]["a"], "b");
}

/// The components of a folder make an artifact if there is one.
#[test]
fn packs_a_folder_of_one() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("parts")).unwrap();
    folder.write("parts/a.wasm", folder.read("greet.wasm"));
    assert_eq!(config(&folder.pack(&["--components", "parts", "--as-artifact"]))["os"], "wasip2");
}

/// Data may stand beside the one wasm layer of an artifact.
#[test]
fn packs_data() {
    let folder = Folder::new();
    folder.write("model.bin", "weights");
    let archive = folder.pack(&["-m", "demo.wasm", "--data", "model.bin=/model.bin", "--as-artifact"]);
    let manifest = archive.manifest();
    let types: Vec<String> = manifest.layers().iter().map(|layer| layer.media_type().to_string()).collect();
    assert_eq!(types, ["application/wasm", "application/octet-stream"]);
    assert_eq!(manifest.layers()[1].annotations().as_ref().unwrap()["prewasi.io/mount"], "/model.bin");
    let config: Value = serde_json::from_slice(archive.blob(manifest.config())).unwrap();
    let digests = [folder.read("demo.wasm"), b"weights".to_vec()].map(|bytes| Digest::of(&bytes).to_string());
    assert_eq!(config["layerDigests"], serde_json::json!(digests));
    // Clients know an artifact by the digest of its config.
    let other = folder.pack(&["-m", "demo.wasm", "--data", "model.bin=/other", "--as-artifact"]);
    assert_ne!(other.manifest().config().digest(), manifest.config().digest());
}
