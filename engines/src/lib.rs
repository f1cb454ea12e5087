//! WebAssembly engines behind one trait: compile ahead of time, load by mapping, run.
//!
//! Engines know bytes and how to run them. They do not know containerd, images or labels.

#[cfg(any(feature = "wasmedge", feature = "wasmer"))]
mod artifact;
#[cfg(any(feature = "wasmer", feature = "wasmtime"))]
mod causes;
#[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer", feature = "wasmtime"))]
mod end;
mod engine;
#[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer", feature = "wasmtime"))]
mod exports;
mod fingerprint;
#[cfg(any(feature = "wasmedge", feature = "wasmer"))]
mod head;
#[cfg(all(test, any(feature = "wasmedge", feature = "wasmer", feature = "wasmtime")))]
mod lock;
mod machine;
#[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer", feature = "wasmtime"))]
mod paths;
#[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer", feature = "wasmtime"))]
mod preopens;
#[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer"))]
mod preview1;
#[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer"))]
mod rights;
mod tuning;
#[cfg(feature = "wamr")]
mod wamr;
#[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer"))]
mod wasi;
mod wasm;
#[cfg(feature = "wasmedge")]
mod wasmedge;
#[cfg(feature = "wasmer")]
mod wasmer;
#[cfg(feature = "wasmtime")]
mod wasmtime;
#[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer", feature = "wasmtime"))]
mod working;

#[cfg(feature = "wamr")]
pub use self::wamr::Wamr;
#[cfg(feature = "wasmedge")]
pub use self::wasmedge::Wasmedge;
#[cfg(feature = "wasmer")]
pub use self::wasmer::Wasmer;
#[cfg(feature = "wasmtime")]
pub use self::wasmtime::Wasmtime;
pub use engine::{
    CANNOT_RUN, CompileError, Engine, Guest, Http, Identity, LoadError, NativeCode, Network, Preopen, Program,
    RunError, TRAPPED, entry_point, guest_thread, version_label,
};
pub use fingerprint::Fingerprint;
pub use machine::Machine;
pub use prewasi_oci::{MAGIC, PreambleError, WasmKind};
pub use tuning::{Optimize, Tuning, TuningError};
pub use wasm::{Wasm, WasmError};
