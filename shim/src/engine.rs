//! How the code of all shims comes to the engine of one.

use prewasi_engines::Engine;

/// Makes the engine of a binary. Called where the engine is needed, never in a daemon, which stays small.
pub type EngineConstructor = fn() -> Box<dyn Engine>;
