//! The packer packs only layers that the runtime knows.

use std::path::Path;

use oci_tar_builder::{Builder, Format, Layer};
use prewasi_cache::{ContentStore as _, LayoutStore};
use prewasi_oci::media_type;
use prewasi_precompiler::{Content, Image};

use crate::image::tar;

/// Parts of generated media types: known names, similar names, and suffixes.
const NAMES: [&str; 15] = [
    media_type::WASM,
    "application/vnd.wasm.content.layer.v1",
    "application/vnd.example",
    "application/wasm2",
    media_type::TAR,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.v2.squashfs",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/x-tar",
    "application/vnd.example.tar",
    "application/vnd.example.target",
    media_type::DATA,
    media_type::WASM_CONFIG,
    "text",
];
const SUFFIXES: [&str; 6] = ["", "+wasm", "+gzip", "+zstd", ".gzip", "+json"];

/// The runtime understands every layer that the packer accepts: alone or beside wasm, in an image or an artifact, mounted or not. It runs
/// the layers that the packer has checked as wasm, and mounts those that the packer has marked.
#[tokio::test]
async fn packer_packs_what_the_runtime_knows() {
    let wasm = b"\0asm\x01\0\0\0".to_vec();
    let (mut packed, mut refused) = (0, 0);
    for name in NAMES {
        for media_type in SUFFIXES.map(|suffix| format!("{name}{suffix}")) {
            for bytes in [wasm.clone(), tar(&[("file", b"text", 0o644)]), b"text".to_vec()] {
                for mount in [None, Some("/data/file"), Some("/data/../file")] {
                    for (format, beside) in [(Format::Image, false), (Format::Image, true), (Format::Artifact, true)] {
                        let Some(image) = pack(format, beside.then_some(&wasm), &media_type, &bytes, mount) else {
                            refused += 1;
                            continue;
                        };
                        packed += 1;
                        let subject = format!("{media_type}, mounted at {mount:?}, {format:?}");
                        read(&image, &subject, usize::from(beside), media_type::is_wasm(&media_type), mount).await;
                    }
                }
            }
        }
    }
    assert!(packed > 50 && refused > 500, "{packed} packed, {refused} refused");
}

/// Packs a layer, beside wasm if given; `None` if the packer refuses.
fn pack(
    format: Format,
    beside: Option<&Vec<u8>>,
    media_type: &str,
    bytes: &[u8],
    mount: Option<&str>,
) -> Option<oci_tar_builder::Image> {
    let mut builder = Builder::new(format, "localhost/packed:v1".parse().expect("a reference"));
    if let Some(wasm) = beside {
        builder = builder.layer(Layer::from_bytes(media_type::WASM, "first.wasm", wasm.clone()).expect("it is wasm"));
    }
    let layer = Layer::from_bytes(media_type, "second", bytes.to_vec()).ok()?;
    let layer = match mount {
        Some(path) => layer.mounted_at(path).ok()?,
        None => layer,
    };
    builder.layer(layer).build().ok()
}

/// Reads an image as the runtime does.
async fn read(image: &oci_tar_builder::Image, subject: &str, beside: usize, is_wasm: bool, mount: Option<&str>) {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("image.tar");
    image.write_file(&archive).expect("it can be written");
    let layout = folder.path().join("layout");
    tar::Archive::new(std::fs::File::open(&archive).expect("it is there")).unpack(&layout).expect("it is a tar");
    let store = LayoutStore::open(&layout).expect("it is a layout");
    let records = store.images().await.expect("the index can be read");
    let found = Image::resolve(&store, &records[0], None).await.unwrap_or_else(|error| panic!("{subject}: {error}"));
    let mounted = found.data_files().unwrap_or_else(|error| panic!("{subject}: {error}"));
    let layers = match &found.content {
        Content::Wasm(layers) => layers.len(),
        Content::Files { .. } => 0,
    };
    assert_eq!(layers, beside + usize::from(is_wasm), "{subject}");
    assert_eq!(
        mounted.iter().map(|file| &*file.path).collect::<Vec<_>>(),
        mount.map(Path::new).as_slice(),
        "{subject}"
    );
}
