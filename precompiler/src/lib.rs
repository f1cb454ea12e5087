//! Finds the wasm in an image, compiles it once per node, and stores the native code in the content store.
//!
//! The only crate that knows both content stores and engines. See `docs/architecture.md`.

mod archive;
mod bytes;
pub mod cli;
mod compile;
mod containerd;
mod doctor;
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
pub use error::{DataError, ImageError, PrepareError, chain};
pub use image::{Content, DataFile, Image, Layer, overlap};
pub use options::{Options, OptionsError, Place, Preopens};
pub use precompiler::{ContainerImage, Origin, Owner, Pin, Precompiler};
pub use prewasi_cache::{ContainerRecord, Extension};
pub use prewasi_oci::Digest;
pub use settings::{Settings, StoreAddress, runtime_dir};
pub use text::one_line;

// Items that only this crate's own commands use.
pub(crate) use error::{WorkerError, report};
pub(crate) use image::{ImageProcess, Step};
pub(crate) use inventory::{Entry, Inventory, State};
pub(crate) use observer::{Activity, Observer};
pub(crate) use precompiler::{Finding, Problem, PrunePolicy, Pruned, Ready, Verification};
pub(crate) use text::visible;
