//! The wasmtime engine: core modules with WASI preview 1, components with WASI preview 2 or 3 that run or answer HTTP.
//!
//! Compiling and running are separate. `compile` uses an engine with a compiler; `load` uses one without. So a process
//! that runs containers cannot compile an image's wasm even by mistake. Their common settings are in [`options`]. Each
//! artifact's header holds the hash of the settings, so wasmtime itself refuses code of another fingerprint.

mod compile;
mod failure;
mod folders;
mod form;
mod guest;
mod host;
mod interfaces;
mod limits;
mod link;
mod load;
mod machine;
mod names;
mod options;
mod outgoing;
mod proposals;
mod run;
mod serve;
mod stdio;
mod traps;

use self::options::Options;
use crate::causes;
use crate::{CompileError, Engine, Identity, LoadError, NativeCode, Program, Tuning, TuningError, Wasm};

/// Version of the linked crate, which does not export it. A test compares this constant with Cargo.lock.
const VERSION: &str = "48.0.8";
const NAME: &str = "wasmtime";

/// The wasmtime engine. Making one reads the CPU's features and hashes a page of text.
#[derive(Debug, Clone)]
pub struct Wasmtime {
    options: Options,
    identity: Identity,
}

impl Wasmtime {
    /// Makes an engine for this machine.
    pub fn new() -> Self {
        Self::with(Options::host(), Tuning::default())
    }

    /// Makes an engine that compiles and loads with `tuning`. Code for another machine is not loaded on this one.
    ///
    /// # Errors
    /// [`TuningError`] names the choice that the engine does not have.
    pub fn tuned(tuning: &Tuning) -> Result<Self, TuningError> {
        Ok(Self::with(Options::tuned(tuning)?, tuning.clone()))
    }

    fn with(options: Options, tuning: Tuning) -> Self {
        let fingerprint = options.fingerprint();
        Self { options, identity: Identity { name: NAME, version: VERSION, fingerprint, tuning } }
    }
}

impl Default for Wasmtime {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine for Wasmtime {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn compiles_in_parallel(&self) -> bool {
        !self.tuning().serial
    }

    fn tuned(&self, tuning: &Tuning) -> Result<Box<dyn Engine>, TuningError> {
        Ok(Box::new(Self::tuned(tuning)?))
    }

    fn first_unprovided<'a>(&self, interfaces: &'a [String]) -> Option<&'a str> {
        interfaces::first_unprovided(interfaces)
    }

    fn compile(&self, wasm: &Wasm) -> Result<Vec<u8>, CompileError> {
        compile::compile(&self.options, wasm)
    }

    fn load(&self, code: NativeCode) -> Result<Box<dyn Program>, LoadError> {
        load::load(&self.options, &self.identity.tuning, code)
    }
}

/// Writes an error and its causes in one line. The backtrace is a context of the error as well, but has many lines and is printed
/// separately.
fn one_line(error: &wasmtime::Error) -> String {
    let causes = error.chain().map(|cause| cause.to_string());
    causes::one_line(causes.filter(|cause| !cause.starts_with("error while executing at wasm backtrace")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lock, version_label};

    /// The version in labels is that of the linked crate, and the CPU is detected by the compiler's own crate.
    #[test]
    fn version_is_the_linked_one() {
        let lock = lock::text();
        assert_eq!(lock::versions(&lock, "wasmtime"), [VERSION]);
        // Another engine may link another version; this crate and wasmtime must link the same.
        let linked = |package: &str, name: &str| -> Vec<&str> {
            let rest = lock.split(&format!("name = \"{package}\"\n")).nth(1).unwrap();
            let rest = rest.split("[[package]]").next().unwrap();
            rest.lines().filter(|line| line.trim_start().starts_with(&format!("\"{name}"))).collect()
        };
        for name in ["cranelift-codegen", "cranelift-native"] {
            let ours = linked("prewasi-engines", name);
            assert_eq!(ours.len(), 1, "{name}");
            assert_eq!(ours, linked("wasmtime-internal-cranelift", name), "wasmtime links another {name}");
        }
    }

    /// The label joins the version and twelve digits of the fingerprint.
    #[test]
    fn label_names_version_and_fingerprint() {
        let engine = Wasmtime::new();
        let label = version_label(&engine);
        assert_eq!(label.strip_prefix("48.0.8-").unwrap(), &engine.fingerprint().hex()[..12]);
    }

    /// The fingerprint for one machine stays the same, so that nodes can use the native code that they have. It changes
    /// with wasmtime's version and with each option that shapes code. Then nodes compile once more, and this test needs
    /// the new value.
    #[cfg(feature = "cross")]
    #[test]
    fn fingerprint_is_stable() {
        const FINGERPRINT: &str = "97d286c76f4771e887887037ca570447fdfb68a345d1ab648392514229e14a0b";
        let tuning = "target=x86_64-unknown-linux-gnu cpu=baseline".parse().unwrap();
        let engine = Wasmtime::tuned(&tuning).unwrap();
        assert_eq!(engine.fingerprint().hex(), FINGERPRINT, "{}", engine.fingerprint().lines());
    }
}
