//! Cranelift, wasmer's compiler by default.

use std::num::NonZero;

pub(super) use wasmer::sys::CraneliftOptLevel as Level;
use wasmer::sys::{Cranelift, EngineBuilder};

use super::options::CodeOptions;
use crate::Optimize;

pub(super) const NAME: &str = "cranelift";

/// Version of the code generator that wasmer's compiler is bound to. A test looks for it in Cargo.lock.
const VERSION: &str = "0.134.3";

/// Returns the version of the code generator.
pub(super) fn version() -> String {
    VERSION.to_owned()
}

pub(super) fn level(optimize: Optimize) -> Level {
    match optimize {
        Optimize::Speed => Level::Speed,
        Optimize::Size => Level::SpeedAndSize,
        Optimize::None => Level::None,
    }
}

pub(super) fn name_of_level(level: &Level) -> &'static str {
    match level {
        Level::None => "none",
        Level::Speed => "speed",
        Level::SpeedAndSize => "speed_and_size",
        _ => "unknown",
    }
}

/// Makes the builder of an engine with this compiler.
pub(super) fn builder(options: &CodeOptions) -> EngineBuilder {
    let mut compiler = Cranelift::new();
    compiler
        // The only format that is mapped from its file.
        .experimental_artifact(true)
        .opt_level(options.optimize.clone())
        .canonicalize_nans(options.canonical_nans)
        .allow_experimental_unaligned_memory_accesses(options.split_unaligned);
    if options.serial {
        compiler.num_threads(NonZero::<usize>::MIN);
    }
    EngineBuilder::new(compiler)
}

#[cfg(test)]
mod tests {
    use super::super::VERSION as WASMER;
    use super::*;
    use crate::lock;

    /// The version in the fingerprint is that of the linked crate.
    #[test]
    fn version_is_the_linked_one() {
        let lock = lock::text();
        assert_eq!(lock::versions(&lock, "wasmer-compiler-cranelift"), [WASMER]);
        assert!(
            lock::versions(&lock, "cranelift-codegen").contains(&VERSION),
            "another version of Cranelift is linked"
        );
    }
}
