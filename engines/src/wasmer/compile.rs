//! From wasm to native code: check the imports, compile.
//!
//! Imports are checked first, because compiling takes seconds and a container that cannot start is started again and
//! again. They stand at the beginning of the file, before any code.

use wasmer::sys::wasmparser::{
    BinaryReaderError, FuncType, ImportSectionReader, MemorySectionReader, Parser, Payload, TypeRef, ValType,
};
use wasmer::{CompileError as Error, Module};

use super::options::Options;
use super::{artifact, one_line, preview1};
use crate::{CompileError, Wasm, WasmKind};

/// Compiles to the bytes of an artifact.
///
/// # Errors
/// [`CompileError`] names what in the wasm is at fault.
pub(super) fn compile(options: &Options, wasm: &Wasm) -> Result<Vec<u8>, CompileError> {
    if wasm.kind() == WasmKind::Component {
        return Err(unsupported("wasmer runs core modules (WASI preview 1), and this is a component; use wasmtime"));
    }
    check_head(wasm.bytes())?;
    let engine = options.compiling_engine();
    let module = Module::new(&engine, wasm.bytes()).map_err(|error| match error {
        Error::Validate(reason) => CompileError::Invalid { reason },
        other => unsupported(one_line(&other)),
    })?;
    let image = module.serialize().map_err(|error| unsupported(one_line(&error)))?;
    Ok(artifact::seal(image.to_vec(), &options.label()))
}

/// Reads what stands before the code, and refuses what could not run: an import that nobody provides, shared memory.
fn check_head(bytes: &[u8]) -> Result<(), CompileError> {
    let mut types = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::TypeSection(section) => {
                types = section.into_iter_err_on_gc_types().collect::<Result<_, _>>().map_err(invalid)?;
            }
            Payload::ImportSection(section) => check_imports(section, &types)?,
            Payload::MemorySection(section) => check_memories(section)?,
            Payload::CodeSectionStart { .. } => break,
            _ => {}
        }
    }
    Ok(())
}

fn check_imports(section: ImportSectionReader<'_>, types: &[FuncType]) -> Result<(), CompileError> {
    for import in section.into_imports() {
        let import = import.map_err(invalid)?;
        let ty = match import.ty {
            TypeRef::Func(index) | TypeRef::FuncExact(index) => types.get(index as usize),
            _ => None,
        };
        let fits = ty.is_some_and(|ty| {
            preview1::offers(import.module, import.name, &letters(ty.params()), &letters(ty.results()))
        });
        if !fits {
            return Err(CompileError::UnknownImport { module: import.module.to_owned(), name: import.name.to_owned() });
        }
    }
    Ok(())
}

/// Writes types as the list of WASI's functions does; those that no function there has, all alike.
fn letters(types: &[ValType]) -> String {
    let letter = |ty: &ValType| match ty {
        ValType::I32 => 'i',
        ValType::I64 => 'I',
        _ => '?',
    };
    types.iter().map(letter).collect()
}

/// Nobody could share a memory, for there are no threads, and what it takes could not be counted.
fn check_memories(section: MemorySectionReader<'_>) -> Result<(), CompileError> {
    for memory in section {
        if memory.map_err(invalid)?.shared {
            return Err(unsupported("it has a shared memory, and threads are not supported; build it without them"));
        }
    }
    Ok(())
}

fn invalid(error: BinaryReaderError) -> CompileError {
    CompileError::Invalid { reason: error.to_string() }
}

fn unsupported(reason: impl ToString) -> CompileError {
    CompileError::Unsupported { reason: reason.to_string() }
}
