//! Compiles wasm to native code: checks the imports, compiles.

use wasmer::{CompileError as Error, Module};

use super::options::CodeOptions;
use super::{NAME, one_line};
use crate::{CompileError, Wasm, artifact, head};

/// Compiles to the bytes of an artifact.
///
/// # Errors
/// [`CompileError`] names the fault in the wasm.
pub(super) fn compile(options: &CodeOptions, wasm: &Wasm) -> Result<Vec<u8>, CompileError> {
    head::check(wasm, NAME)?;
    let engine = options.compiling_engine();
    let module = Module::new(&engine, wasm.bytes()).map_err(|error| match error {
        Error::Validate(reason) => CompileError::Invalid { reason },
        other => CompileError::Unsupported { reason: one_line(&other) },
    })?;
    let image = module.serialize().map_err(|error| CompileError::Unsupported { reason: one_line(&error) })?;
    Ok(artifact::seal(image.to_vec(), &options.label()))
}
