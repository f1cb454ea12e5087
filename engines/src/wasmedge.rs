//! The WasmEdge engine: core modules with WASI preview 1.
//!
//! WasmEdge is a C++ library that the system provides, or that this build includes (feature `bundled` of
//! `wasmedge-sys`). Its compiler writes a shared library of native code, which the dynamic loader maps from its file.
//! The settings on which both sides must agree are in [`options`]. Their hash stands behind each artifact.
//!
//! The engine validates each module before WasmEdge gets it. It also changes the module where WasmEdge would break a
//! rule of container runtimes ([`rewrite`]). A guest gets WASI preview 1 ([`crate::wasi`]) and nothing else: neither
//! WasmEdge's own WASI with its sockets nor its plugins.

mod compile;
mod facts;
mod instance;
mod library;
mod linked;
mod load;
mod options;
mod proposals;
mod rewrite;
mod run;
mod stack;

use self::options::CodeOptions;
use crate::{CompileError, Engine, Identity, LoadError, NativeCode, Program, Tuning, TuningError, Wasm};

/// Version of WasmEdge that this engine is made for. The fingerprint has the library's own version, which may be a
/// later patch.
const VERSION: &str = "0.17.1";
const NAME: &str = "wasmedge";

/// The WasmEdge engine. Making one only reads the CPU's features and hashes a page of text.
#[derive(Debug, Clone)]
pub struct Wasmedge {
    options: CodeOptions,
    identity: Identity,
}

impl Wasmedge {
    /// Makes an engine for the machine it runs on.
    pub fn new() -> Self {
        Self::with(CodeOptions::host(), Tuning::default())
    }

    fn with(options: CodeOptions, tuning: Tuning) -> Self {
        let fingerprint = options.fingerprint();
        Self { options, identity: Identity { name: NAME, version: VERSION, fingerprint, tuning } }
    }
}

impl Default for Wasmedge {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine for Wasmedge {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    /// WasmEdge's compiler and linker can write only to files.
    fn writes_files(&self) -> bool {
        true
    }

    /// Refuses other machines, except the baseline of this one. Options for programs that serve have no effect, as with
    /// any program that does not serve.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lock, version_label};

    /// The version that labels carry is that of the linked library, or an earlier patch of it, and the crate is made for it.
    #[test]
    fn version_is_the_linked_one() {
        assert!(linked::check().is_ok(), "{}", linked::version());
        assert_eq!(VERSION.rsplit_once('.').unwrap().0, linked::version().rsplit_once('.').unwrap().0);
        assert_eq!(lock::versions(&lock::text(), "wasmedge-sys"), ["0.21.1"]);
    }

    /// The label joins the version and twelve digits of the fingerprint.
    #[test]
    fn label_names_version_and_fingerprint() {
        let engine = Wasmedge::new();
        let label = version_label(&engine);
        assert_eq!(label.strip_prefix("0.17.1-").unwrap(), &engine.fingerprint().hex()[..12]);
    }

    /// The fingerprint has these lines, in this order. Their values depend on the machine and the build.
    #[test]
    fn fingerprint_is_stable() {
        let engine = Wasmedge::new();
        let names: Vec<&str> =
            engine.fingerprint().lines().lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        let expected = "fingerprint artifact rewrite engine version library llvm target cpu optimize fuel proposals";
        assert_eq!(names.join(" "), expected);
        assert_eq!(Wasmedge::default().fingerprint(), engine.fingerprint());
    }
}
