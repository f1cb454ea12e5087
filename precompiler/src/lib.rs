//! Finds the wasm in an image, compiles it once per node, and keeps the native code in the content store.
//!
//! The only crate that knows both content stores and engines. See `docs/architecture.md`.

mod archive;
mod bytes;
pub mod cli;
mod compile;
mod containerd;
pub mod doctor;
mod entrypoint;
mod error;
mod image;
mod inventory;
mod journal;
mod observer;
mod options;
mod precompiler;
mod provenance;
mod settings;
mod slots;
mod text;
mod watch;
pub mod worker;

pub use containerd::containerd_version;
pub use entrypoint::{is_named_wasm, split_function};
pub use error::{ImageError, PrepareError, WorkerError};
pub use image::{
    Content, DataError, DataFile, DataLayer, Image, Layer, MOUNT_ANNOTATION, Platform, Process, Step, overlap,
};
pub use inventory::{Entry, Inventory, State};
pub use observer::{Activity, Miss, Observer};
pub use options::{Options, OptionsError, Place, Preopens};
pub use precompiler::{
    ContainerImage, Finding, Inspection, Origin, Owner, Pin, Precompiler, Prepared, Problem, PrunePolicy, Pruned,
    Ready, Verification,
};
pub use prewasi_cache::{ContainerRecord, Digest, Extension};
pub use settings::{Settings, StoreAddress, runtime_dir};
pub use text::{one_line, visible};
