//! The WasmEdge engine: core modules with WASI preview 1.
//!
//! WasmEdge is a library in C++ that the system provides or that is built in (feature `bundled` of `wasmedge-sys`). Its
//! compiler writes a shared library of native code, which the dynamic loader maps from its file. What both sides
//! must agree on is in [`options`], and its hash is written behind each artifact.
//!
//! What reaches WasmEdge has been validated, and changed where WasmEdge would do what a container runtime must not
//! ([`rewrite`]). A guest is given WASI preview 1 ([`crate::wasi`]) and nothing else: neither WasmEdge's own WASI with its sockets nor its plugins.

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

use self::options::Options;
use crate::{CompileError, Engine, Identity, LoadError, NativeCode, Program, Tuning, TuningError, Wasm};

/// Version of WasmEdge that this is made for. The library's own is in the fingerprint, for it may be a later patch.
const VERSION: &str = "0.17.1";
const NAME: &str = "wasmedge";

/// The WasmEdge engine. Making one reads the CPU's features and hashes a page of text, nothing more.
#[derive(Debug, Clone)]
pub struct Wasmedge {
    options: Options,
    identity: Identity,
}

impl Wasmedge {
    /// Makes an engine for the machine it runs on.
    pub fn new() -> Self {
        Self::with(Options::host(), Tuning::default())
    }

    fn with(options: Options, tuning: Tuning) -> Self {
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

    /// WasmEdge's compiler and linker write to files, and only to files.
    fn writes_files(&self) -> bool {
        true
    }

    /// Refuses other machines, save the baseline of this one. What is for programs that serve is of no effect, as it is with
    /// any program that does not.
    fn tuned(&self, tuning: &Tuning) -> Result<Box<dyn Engine>, TuningError> {
        Ok(Box::new(Self::with(Options::tuned(tuning)?, tuning.clone())))
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

    /// The fingerprint has these lines, in this order, whose values are of the machine and the build.
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
