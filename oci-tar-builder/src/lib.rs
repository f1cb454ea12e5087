//! Packs WebAssembly programs, and files beside them, as OCI images and CNCF wasm artifacts, in one tar that `ctr` and Docker import.
//!
//! [`Layer`] checks bytes before they are packed. [`Builder`] makes the documents from these bytes. [`Image::write_file`] writes the whole
//! archive or nothing. The same input gives the same bytes.

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
