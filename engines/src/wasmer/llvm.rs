//! LLVM instead of Cranelift: a compiler that takes longer, for code that runs faster.
//!
//! wasmer compiles each function by itself, in memory, and links all functions as it does with Cranelift. It writes no file, starts no
//! program and installs no signal handler.

use std::num::NonZero;

pub(super) use wasmer::sys::LLVMOptLevel as Level;
use wasmer::sys::{CompilerConfig as _, EngineBuilder, LLVM};

use super::options::CodeOptions;
use crate::Optimize;

pub(super) const NAME: &str = "llvm";

/// Returns the version of the linked library.
pub(super) fn version() -> String {
    let (major, minor, patch) = inkwell::support::get_llvm_version();
    format!("{major}.{minor}.{patch}")
}

/// Returns the level of LLVM's code generator. The passes before it are the same with each level.
pub(super) fn level(optimize: Optimize) -> Level {
    match optimize {
        Optimize::Speed => Level::Aggressive,
        Optimize::Size => Level::Less,
        Optimize::None => Level::None,
    }
}

pub(super) fn name_of_level(level: &Level) -> &'static str {
    match level {
        Level::None => "none",
        Level::Less => "less",
        Level::Default => "default",
        Level::Aggressive => "aggressive",
    }
}

/// Makes the builder of an engine with this compiler.
pub(super) fn builder(options: &CodeOptions) -> EngineBuilder {
    let mut compiler = LLVM::new();
    // The only format that is mapped from its file.
    compiler.experimental_artifact(true).opt_level(options.optimize);
    compiler.canonicalize_nans(options.canonical_nans);
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

    /// The compiler is that of this wasmer, and supports the linked library.
    #[test]
    fn version_is_the_linked_one() {
        assert_eq!(lock::versions(&lock::text(), "wasmer-compiler-llvm"), [WASMER]);
        assert_eq!(lock::versions(&lock::text(), "inkwell").len(), 1, "the version of another library is asked for");
        assert!(version().starts_with("22."), "{}", version());
    }
}
