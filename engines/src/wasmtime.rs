//! wasmtime.

/// The wasmtime engine.
pub struct Wasmtime {}
