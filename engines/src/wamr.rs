//! The WAMR engine: core modules with WASI preview 1, interpreted.
//!
//! There is nothing to compile: a container starts from its wasm, and WAMR translates it to its own form at each start.
//! Loading validates, allocates no memory of WAMR's and calls none of its C code. So an image's bytes reach WAMR only
//! inside the container, in [`Program::run`].

use std::sync::Arc;

use crate::tuning::STACK_LIMITS;
use crate::{
    CompileError, Engine, Fingerprint, Identity, LoadError, Machine, NativeCode, Optimize, Program, Tuning,
    TuningError, Wasm,
};

mod module;
mod program;
mod runtime;

/// Version of WAMR in the crate that links it. A test compares it with the version that WAMR reports.
const VERSION: &str = "2.4.3";
const NAME: &str = "wamr";

/// The WAMR engine. Making one only hashes a few lines of text.
#[derive(Debug, Clone)]
pub struct Wamr {
    identity: Identity,
}

impl Wamr {
    /// Makes an engine.
    pub fn new() -> Self {
        // No option shapes code, because there is no code; the label is for people.
        let fields = [("engine", NAME), ("version", VERSION), ("runs", "interpreted")];
        let fields = fields.map(|(name, value)| (name, value.to_owned()));
        let (fingerprint, tuning) = (Fingerprint::new(fields), Tuning::default());
        Self { identity: Identity { name: NAME, version: VERSION, fingerprint, tuning } }
    }
}

impl Default for Wamr {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine for Wamr {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn compiles(&self) -> bool {
        false
    }

    /// Takes a stack; refuses options that would shape code. Options for a compiler alone or for programs that serve
    /// have no effect, as with any program that does not serve.
    fn tuned(&self, tuning: &Tuning) -> Result<Box<dyn Engine>, TuningError> {
        let fixed = |what| Err(TuningError::Fixed { what, engine: NAME });
        if tuning.machine != Machine::default() {
            return fixed("another machine");
        }
        if tuning.optimize != Optimize::default() {
            return fixed("an optimisation level");
        }
        if tuning.fuel {
            return fixed("fuel");
        }
        if !tuning.proposals.is_empty() {
            return fixed("proposals");
        }
        tuning.stack_within(STACK_LIMITS, program::STACK.into())?;
        Ok(Box::new(Self { identity: Identity { tuning: tuning.clone(), ..self.identity.clone() } }))
    }

    fn compile(&self, _: &Wasm) -> Result<Vec<u8>, CompileError> {
        Err(CompileError::Unsupported { reason: "wamr interprets, and has nothing to compile".to_owned() })
    }

    fn load(&self, _: NativeCode) -> Result<Box<dyn Program>, LoadError> {
        Err(LoadError::Incompatible { reason: "wamr interprets, and runs no native code".to_owned() })
    }

    /// Validates wasm and copies it: WAMR needs its own copy, and the engine changes a few bytes of it (see
    /// `wamr/module.rs`). The copy is ordinary memory, which a forked process shares until it writes to it.
    fn load_wasm(&self, wasm: &Wasm) -> Result<Box<dyn Program>, LoadError> {
        let module = module::Module::read(wasm).map_err(|source| LoadError::Wasm { source: source.cut() })?;
        let stack = self.identity.tuning.stack.and_then(|stack| u32::try_from(stack).ok()).unwrap_or(program::STACK);
        Ok(Box::new(program::Interpreted { module: Arc::new(module), stack }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version in labels is that of the linked WAMR.
    #[test]
    fn version_is_the_linked_one() {
        assert_eq!(runtime::version(), VERSION);
    }

    /// The engine refuses by name the options that an interpreter does not have.
    #[test]
    fn choices_are_refused() {
        for (text, what) in [
            ("optimize=size", "an optimisation level"),
            ("fuel=yes", "fuel"),
            ("proposals=-gc", "proposals"),
            ("cpu=baseline", "another machine"),
        ] {
            let error = Wamr::new().tuned(&text.parse().unwrap()).err();
            assert_eq!(error, Some(TuningError::Fixed { what, engine: NAME }), "{text}");
        }
        assert!(Wamr::new().tuned(&"stack=1048576 serial=yes".parse().unwrap()).is_ok());
        assert!(matches!(Wamr::new().tuned(&"stack=1".parse().unwrap()), Err(TuningError::Stack { .. })));
    }
}
