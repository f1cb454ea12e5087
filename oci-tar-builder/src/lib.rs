//! Packs WebAssembly programs, and files beside them, as OCI images and CNCF wasm artifacts, in one tar that `ctr` and Docker import.
//!
//! Bytes are checked before they are packed ([`Layer`]), documents are made from what the bytes say ([`Builder`]), and
//! the archive is written at once or not at all ([`Image::write_file`]). The same input gives the same bytes.

mod archive;
mod build;
mod document;
mod image;
mod layer;
mod output;
mod reference;
mod wasm;

pub use archive::WriteError;
pub use build::{BuildError, Builder};
pub use image::{Format, Image};
pub use layer::{Layer, LayerError};
pub use prewasi_oci::{Digest, media_type};
pub use reference::{Problem, Reference, ReferenceError};
pub use wasm::{Interface, Wasm, WasmError};
