//! Images for tests, packed by `oci-tar-builder` and imported.

mod config;

pub use config::Config;

use std::fs;
use std::path::Path;

use oci_tar_builder::{Builder, Format, Layer, media_type};
use sha2::{Digest as _, Sha256};

use crate::guests;
use crate::namespace::Namespace;

/// Name of the part with a big wasm module: the Yosys synthesis suite, which prints its version for `-V`.
pub const BIG_MODULE: &str = "yosys.wasm";
/// File name of the part with a solver of formulas.
pub const SOLVER: &str = "boolector.wasm";
/// File name of the part with a component made from `guests/web.js`.
pub const JAVASCRIPT: &str = "web-js.wasm";
/// File names of the parts that are made of `guests/compilers`.
pub const COMPILED: [&str; 4] = ["paths-go.wasm", "paths-zig.wasm", "paths-zig-libc.wasm", "paths-assemblyscript.wasm"];

/// An imported image.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Name of its record.
    pub name: String,
    /// Digest of its manifest, or of the index around it.
    pub digest: String,
}

/// Packs an image with the additions of `describe`, and imports it as `localhost/<name>:latest`.
///
/// # Panics
/// If it cannot be packed or imported.
pub fn import(namespace: &Namespace, name: &str, describe: impl FnOnce(Builder) -> Builder) -> Imported {
    import_as(Format::Image, namespace, name, describe)
}

/// Packs a CNCF wasm artifact, and imports it as [`import`] does.
///
/// # Panics
/// If it cannot be packed or imported.
pub fn import_artifact(namespace: &Namespace, name: &str, layer: Layer) -> Imported {
    import_as(Format::Artifact, namespace, name, |builder| builder.layer(layer))
}

/// Packs an image or artifact with the additions of `describe`, and imports it as [`import`] does.
///
/// # Panics
/// If it cannot be packed or imported.
pub fn import_as(
    format: Format,
    namespace: &Namespace,
    name: &str,
    describe: impl FnOnce(Builder) -> Builder,
) -> Imported {
    let reference = format!("localhost/{name}:latest").parse().expect("test images have plain names");
    let image = describe(Builder::new(format, reference)).build().expect("the image is well described");
    let tar = namespace.folder().join(format!("{name}.tar"));
    image.write_file(&tar).expect("the folder is ours");
    namespace.import(&tar, image.os());
    Imported { name: image.reference().to_string(), digest: image.digest().to_string() }
}

/// A wasm program with unique bytes: tests count compiles by digest.
#[derive(Debug, Clone)]
pub struct Program {
    /// The wasm.
    pub bytes: Vec<u8>,
    /// Digest of the wasm, and of the layer made from it.
    pub digest: String,
}

impl Program {
    /// Reads one of the [`guests`] and makes its bytes unique to the namespace.
    ///
    /// # Panics
    /// If it cannot be built.
    pub fn guest(namespace: &Namespace, name: &str) -> Self {
        Self::file(namespace, &guests::path(name))
    }

    /// Reads a file and makes its bytes unique to the namespace.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn file(namespace: &Namespace, path: &Path) -> Self {
        let wasm = fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        Self::new(marked(&wasm, namespace.name()))
    }

    /// Takes bytes unchanged.
    pub fn new(bytes: Vec<u8>) -> Self {
        let digest = digest(&bytes);
        Self { bytes, digest }
    }

    /// Makes a wasm layer with the title `name`.
    ///
    /// # Panics
    /// If the program is not valid.
    pub fn layer(&self, name: &str) -> Layer {
        Layer::from_bytes(media_type::WASM, name, self.bytes.clone()).expect("the program is valid wasm")
    }

    /// Makes a wasm layer without checking the bytes.
    pub fn unchecked(&self) -> Layer {
        Layer::unchecked(media_type::WASM, self.bytes.clone())
    }
}

/// Makes a tar of files (path, bytes, mode).
///
/// # Panics
/// If a path cannot be put into a tar.
pub fn tar(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        tar.append_data(&mut header, path.trim_start_matches('/'), *bytes).expect("memory can be written");
    }
    tar.into_inner().expect("memory can be written")
}

/// Packs files (path, bytes, mode) as a file system layer.
///
/// # Panics
/// If a path cannot be put into a tar.
pub fn files(files: &[(&str, &[u8], u32)]) -> Layer {
    Layer::from_bytes(media_type::TAR, "files.tar", tar(files)).expect("it is a tar")
}

/// Packs symbolic links (path, target) as a file system layer.
///
/// # Panics
/// If a path cannot be put into a tar.
pub fn links(links: &[(&str, &str)]) -> Layer {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, target) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, path.trim_start_matches('/'), target).expect("memory can be written");
    }
    let bytes = tar.into_inner().expect("memory can be written");
    Layer::from_bytes(media_type::TAR, "links.tar", bytes).expect("it is a tar")
}

/// Returns the digest of bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Appends a section that names the program. It changes the digest of the wasm and of its native code, and nothing else. containerd keeps
/// equal bytes of all namespaces in one file, which some tests damage.
pub fn marked(wasm: &[u8], mark: &str) -> Vec<u8> {
    let section: &[u8] = if wasm.get(4) == Some(&1) { b"name" } else { b"component-name" };
    let name = [&[byte(mark.len())], mark.as_bytes()].concat();
    let name = [&[0, byte(name.len())], &*name].concat();
    let content = [&[byte(section.len())], section, &name].concat();
    [wasm, &[0, byte(content.len())], &content].concat()
}

/// Encodes a length that one byte of LEB128 can hold.
fn byte(length: usize) -> u8 {
    u8::try_from(length).ok().filter(|byte| *byte < 0x80).expect("the mark is short")
}
