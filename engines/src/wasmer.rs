//! The wasmer engine: core modules with WASI preview 1.
//!
//! Compiling and running are separate. `compile` uses an engine with a compiler: Cranelift, or LLVM in a build with the
//! feature `wasmer-llvm`. `load` uses an engine without one. The settings on which both must agree are in [`options`].
//! Their hash stands behind each artifact, because wasmer's own header names neither a version nor the options. An
//! artifact is an ELF image that is mapped from its file, not copied.
//!
//! A guest gets WASI preview 1 ([`crate::wasi`]) and nothing else. The engine does not use wasmer's own library for it.
//! That library resolves paths in a tree of its own. Its extensions (WASIX) would let a guest start processes and
//! threads in ways that a container runtime does not see.

mod compile;
#[cfg(not(feature = "wasmer-llvm"))]
#[path = "wasmer/cranelift.rs"]
mod compiler;
#[cfg(feature = "wasmer-llvm")]
#[path = "wasmer/llvm.rs"]
mod compiler;
mod limits;
mod load;
mod options;
mod proposals;
mod run;

use std::error::Error;
use std::iter::successors;

use self::options::CodeOptions;
use crate::causes;
use crate::{CompileError, Engine, Identity, LoadError, NativeCode, Program, Tuning, TuningError, Wasm};

/// Version of the linked crate, which does not export it. A test compares it with Cargo.lock.
const VERSION: &str = "7.3.0";
const NAME: &str = "wasmer";

/// The wasmer engine. Making one only reads the CPU's features and hashes a page of text.
#[derive(Debug, Clone)]
pub struct Wasmer {
    options: CodeOptions,
    identity: Identity,
}

impl Wasmer {
    /// Makes an engine for the machine it runs on.
    pub fn new() -> Self {
        Self::with(CodeOptions::host(), Tuning::default())
    }

    fn with(options: CodeOptions, tuning: Tuning) -> Self {
        let fingerprint = options.fingerprint();
        Self { options, identity: Identity { name: NAME, version: VERSION, fingerprint, tuning } }
    }
}

impl Default for Wasmer {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine for Wasmer {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn compiles_in_parallel(&self) -> bool {
        !self.tuning().serial
    }

    /// Refuses fuel and other machines. Options for programs that serve have no effect, as with any program that does
    /// not serve.
    fn tuned(&self, tuning: &Tuning) -> Result<Box<dyn Engine>, TuningError> {
        Ok(Box::new(Self::with(CodeOptions::tuned(tuning)?, tuning.clone())))
    }

    fn compile(&self, wasm: &Wasm) -> Result<Vec<u8>, CompileError> {
        compile::compile(&self.options, wasm)
    }

    fn load(&self, code: NativeCode) -> Result<Box<dyn Program>, LoadError> {
        load::load(&self.options, code)
    }
}

/// Writes an error and its causes in one line.
fn one_line(error: &dyn Error) -> String {
    causes::one_line(successors(Some(error), |error| (*error).source()).map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lock, version_label};

    /// The version in the fingerprint is that of the linked crate.
    #[test]
    fn version_is_the_linked_one() {
        assert_eq!(lock::versions(&lock::text(), "wasmer"), [VERSION]);
    }

    /// The label joins the version and twelve digits of the fingerprint.
    #[test]
    fn label_names_version_and_fingerprint() {
        let engine = Wasmer::new();
        let label = version_label(&engine);
        assert_eq!(label.strip_prefix("7.3.0-").unwrap(), &engine.fingerprint().hex()[..12]);
    }

    /// The fingerprint has these lines, in this order. Their values depend on the machine and the build.
    #[test]
    fn fingerprint_is_stable() {
        let engine = Wasmer::new();
        let names: Vec<&str> =
            engine.fingerprint().lines().lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        let expected = "fingerprint artifact engine version target cpu compiler compiler_version optimize canonical_nans split_unaligned features \
            memory_reservation memory_guard moving_memory_guard";
        assert_eq!(names.join(" "), expected);
        assert_eq!(Wasmer::default().fingerprint(), engine.fingerprint());
    }
}
