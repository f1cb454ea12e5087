//! The WAMR engine: core modules with WASI preview 1, interpreted.
//!
//! It has nothing to compile: a container starts from its wasm, and each start is a cold one. Loading only validates, in
//! memory-safe code; WAMR itself, which is C, sees the bytes of an image inside the container and nowhere else.

use std::sync::Arc;

use crate::{
    CompileError, Engine, Fingerprint, LoadError, Machine, NativeCode, Optimize, Program, Tuning, TuningError, Wasm,
};

mod module;
mod program;
mod runtime;

/// Version of WAMR in the crate that brings it. A test compares it with what WAMR says of itself.
const VERSION: &str = "2.4.3";
const NAME: &str = "wamr";

/// The WAMR engine.
#[derive(Debug, Clone)]
pub struct Wamr {
    fingerprint: Fingerprint,
    tuning: Tuning,
}

impl Wamr {
    /// Makes an engine.
    pub fn new() -> Self {
        // Nothing shapes code where there is none; the label is for people.
        let fields = [("engine", NAME), ("version", VERSION), ("runs", "interpreted")];
        let fields = fields.map(|(name, value)| (name, value.to_owned()));
        Self { fingerprint: Fingerprint::new(fields), tuning: Tuning::default() }
    }
}

impl Default for Wamr {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine for Wamr {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &'static str {
        VERSION
    }

    fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    fn compiles(&self) -> bool {
        false
    }

    fn tuning(&self) -> &Tuning {
        &self.tuning
    }

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
        let (stack, limits) = (tuning.stack.unwrap_or(program::STACK.into()), program::STACK_LIMITS);
        if stack < limits.0 || stack > limits.1 {
            return Err(TuningError::Stack { bytes: stack, limits });
        }
        Ok(Box::new(Self { tuning: tuning.clone(), ..self.clone() }))
    }

    fn compile(&self, _: &Wasm) -> Result<Vec<u8>, CompileError> {
        Err(CompileError::Unsupported { reason: "wamr interprets; there is nothing to compile".to_owned() })
    }

    fn load(&self, _: NativeCode) -> Result<Box<dyn Program>, LoadError> {
        Err(LoadError::Incompatible { reason: "wamr runs no native code".to_owned() })
    }

    fn load_wasm(&self, wasm: &Wasm) -> Result<Box<dyn Program>, LoadError> {
        let module = module::check(wasm).map_err(|error| LoadError::Wasm { source: error })?;
        let stack = self.tuning.stack.and_then(|stack| u32::try_from(stack).ok()).unwrap_or(program::STACK);
        Ok(Box::new(program::Interpreted { wasm: Arc::from(wasm.bytes()), module, stack }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version that labels carry is the one that is linked.
    #[test]
    fn version_is_the_linked_one() {
        assert_eq!(runtime::version(), VERSION);
    }

    /// What an interpreter cannot be told is refused by name.
    #[test]
    fn choices_are_refused() {
        for (text, what) in [
            ("optimize=size", "an optimisation level"),
            ("fuel=yes", "fuel"),
            ("proposals=-gc", "proposals"),
            ("cpu=baseline", "another machine"),
        ] {
            let error = Wamr::new().tuned(&text.parse().expect("a tuning")).err();
            assert_eq!(error, Some(TuningError::Fixed { what, engine: NAME }), "{text}");
        }
        assert!(Wamr::new().tuned(&"stack=1048576 serial=yes".parse().expect("a tuning")).is_ok());
        assert!(matches!(Wamr::new().tuned(&"stack=1".parse().expect("a tuning")), Err(TuningError::Stack { .. })));
    }
}
