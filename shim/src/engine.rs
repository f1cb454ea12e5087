//! The link between the shared code of all shims and the engine of one shim.

use prewasi_engines::Engine;

/// Makes the engine of a binary. Only short-lived processes call it: without an engine the daemon stays small.
pub type EngineConstructor = fn() -> Box<dyn Engine>;
