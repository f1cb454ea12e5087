//! From wasm to native code: check the imports, compile.
//!
//! Imports are checked first, because compiling takes seconds and a container that cannot start is started again and again. The beginning
//! of the file has all that the check needs, and that beginning is valid wasm by itself.
//!
//! The compiler validates function by function, in parallel. Only after a failure is the whole validated separately, to distinguish
//! invalid wasm from wasm that needs an unsupported feature.

use wasmparser::{Parser, Payload, Validator, WasmFeatures};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use super::failure::{invalid, unsupported};
use super::form::Form;
use super::link::{check_component, check_module};
use super::one_line;
use super::options::Options;
use crate::{CompileError, Wasm, WasmKind};

/// Compiles to the bytes of an artifact.
///
/// # Errors
/// [`CompileError`] names the fault in the wasm.
pub(super) fn compile(options: &Options, wasm: &Wasm) -> Result<Vec<u8>, CompileError> {
    check_and_compile(options, wasm).or_else(|error| validate(options, wasm.bytes()).and(Err(error)))
}

fn check_and_compile(options: &Options, wasm: &Wasm) -> Result<Vec<u8>, CompileError> {
    let failed = |error: wasmtime::Error| unsupported(one_line(&error));
    let form = Form::of(wasm)?;
    refuse_shared_memories(wasm)?;
    let engine = options.engine(true, form).map_err(failed)?;
    // Only code for this machine can be bound to imports.
    let checker =
        if options.is_host() { engine.clone() } else { Options::host().engine(true, form).map_err(failed)? };
    let head = head(wasm)?;
    match wasm.kind() {
        WasmKind::Module => {
            check_module(&checker, &Module::new(&checker, head).map_err(failed)?)?;
            engine.precompile_module(wasm.bytes()).map_err(failed)
        }
        WasmKind::Component => {
            check_component(&checker, form, &Component::new(&checker, head).map_err(failed)?)?;
            if !options.is_host() && imports_late(wasm, head.len())? {
                check_component(&checker, form, &Component::new(&checker, wasm.bytes()).map_err(failed)?)?;
            }
            let artifact = engine.precompile_component(wasm.bytes()).map_err(failed)?;
            if options.is_host() {
                check_late_imports(&engine, form, &artifact)?;
            }
            Ok(artifact)
        }
    }
}

/// Refuses memories that threads share: there are no threads, and the limit of memory would not count such memories.
fn refuse_shared_memories(wasm: &Wasm) -> Result<(), CompileError> {
    for payload in Parser::new(0).parse_all(wasm.bytes()) {
        if let Payload::MemorySection(section) = payload.map_err(invalid)? {
            for memory in section {
                if memory.map_err(invalid)?.shared {
                    return Err(unsupported(
                        "it has a shared memory, and threads are not supported; build it without them",
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Returns whether a component has imports after its head, so that only the whole of it can be checked.
fn imports_late(wasm: &Wasm, head: usize) -> Result<bool, CompileError> {
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(wasm.bytes()) {
        match payload.map_err(invalid)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 && section.range().start >= head => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

fn validate(options: &Options, bytes: &[u8]) -> Result<(), CompileError> {
    let features = options.features().union(WasmFeatures::CM_ASYNC);
    Validator::new_with_features(features).validate_all(bytes).map(drop).map_err(invalid)
}

/// Returns the part before the first section that is neither a type nor an import.
fn head(wasm: &Wasm) -> Result<&[u8], CompileError> {
    let bytes = wasm.bytes();
    let mut end = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(invalid)?;
        end = match &payload {
            Payload::Version { range, .. } => range.end,
            Payload::TypeSection(section) => section.range().end,
            Payload::ImportSection(section) => section.range().end,
            Payload::CustomSection(section) => section.range().end,
            Payload::CoreTypeSection(section) => section.range().end,
            Payload::ComponentTypeSection(section) => section.range().end,
            Payload::ComponentImportSection(section) => section.range().end,
            Payload::ComponentAliasSection(section) => section.range().end,
            _ => break,
        };
    }
    Ok(&bytes[..end])
}

/// Checks the imports of a whole component. Unlike a module's, they may be anywhere in the file.
fn check_late_imports(engine: &Engine, form: Form, artifact: &[u8]) -> Result<(), CompileError> {
    // SAFETY: the same engine has just compiled these bytes, and no other code has had access to them.
    let component = unsafe { Component::deserialize(engine, artifact) };
    check_component(engine, form, &component.map_err(|error| unsupported(one_line(&error)))?)
}
