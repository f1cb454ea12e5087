//! Finds the wasm in an image, compiles it once per node, and keeps the native code in the content store.
//!
//! The only crate that knows both content stores and engines. See `docs/architecture.md`.

pub mod cli;
mod settings;
pub mod worker;

pub use settings::{Settings, runtime_dir};

use std::fs::File;

use prewasi_engines::{Engine, NativeCode, Wasm};

/// Prepares images of one store and namespace for engines.
pub struct Precompiler {}

/// What an image turned out to be, ready to be started.
#[derive(Debug)]
pub enum Prepared {
    /// Native code that may be loaded.
    Native(NativeCode),
    /// Wasm for an engine that does not compile.
    Wasm(Wasm),
    /// No wasm image; its entrypoint may still be a wasm file in the root filesystem.
    NotWasm,
}

/// Says why an image cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {}

impl Precompiler {
    /// Connects to the containerd of `settings`.
    pub async fn connect(settings: Settings) -> Result<Self, PrepareError> {
        let _ = settings;
        Ok(Self {})
    }

    /// Returns the name of the image that a container was made from; `None` if it was made without one.
    pub async fn image_of_container(&self, id: &str) -> Result<Option<String>, PrepareError> {
        let _ = id;
        Ok(None)
    }

    /// Prepares the wasm layer of an image for an engine: looks up, else compiles and stores.
    pub async fn prepare(&self, image: &str, engine: &dyn Engine) -> Result<Prepared, PrepareError> {
        let _ = (image, engine);
        Ok(Prepared::NotWasm)
    }

    /// Prepares a file of an ordinary image's root filesystem (`name` as the user wrote it, for errors), binary or text (`.wat`).
    /// `NotWasm` if it is neither.
    pub async fn prepare_file(&self, image: Option<&str>, name: &str, file: File, engine: &dyn Engine) -> Result<Prepared, PrepareError> {
        let _ = (image, name, file, engine);
        Ok(Prepared::NotWasm)
    }
}
