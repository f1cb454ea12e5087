//! WebAssembly engines behind one trait: compile ahead of time, load by mapping, run.
//!
//! Engines know bytes and how to run them; of containerd, images and labels they know nothing.

mod engine;
mod fingerprint;
mod wasm;
#[cfg(feature = "wasmtime")]
mod wasmtime;

pub use engine::{CompileError, Engine, Guest, LoadError, NativeCode, Outcome, Preopen, Program, RunError};
pub use fingerprint::Fingerprint;
#[cfg(feature = "wasmtime")]
pub use wasmtime::Wasmtime;
pub use wasm::{Wasm, WasmError, WasmKind};
