//! What stands before a module's code, and shows already that the module could not run.
//!
//! It is read before anything is compiled, because compiling takes seconds and a container that cannot start is started
//! again and again.

use wasmparser::{BinaryReaderError, FuncType, ImportSectionReader, MemorySectionReader, Parser, Payload, TypeRef};

use crate::{CompileError, Wasm, WasmKind, preview1};

/// Refuses what could not run: a component, an import that nobody provides, shared memory.
///
/// # Errors
/// [`CompileError`] names what in the wasm is at fault.
pub(crate) fn check(wasm: &Wasm, engine: &str) -> Result<(), CompileError> {
    if wasm.kind() == WasmKind::Component {
        let reason = format!("{engine} runs core modules (WASI preview 1), and this is a component; use wasmtime");
        return Err(CompileError::Unsupported { reason });
    }
    let mut types = Vec::new();
    for payload in Parser::new(0).parse_all(wasm.bytes()) {
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
        if !ty.is_some_and(|ty| preview1::offers(import.module, import.name, ty.params(), ty.results())) {
            return Err(CompileError::UnknownImport { module: import.module.to_owned(), name: import.name.to_owned() });
        }
    }
    Ok(())
}

/// Nobody could share a memory, for there are no threads, and what it takes could not be counted.
fn check_memories(section: MemorySectionReader<'_>) -> Result<(), CompileError> {
    for memory in section {
        if memory.map_err(invalid)?.shared {
            let reason = "it has a shared memory, and threads are not supported; build it without them";
            return Err(CompileError::Unsupported { reason: reason.to_owned() });
        }
    }
    Ok(())
}

/// Says what breaks the rules of wasm, and where.
pub(crate) fn invalid(error: BinaryReaderError) -> CompileError {
    CompileError::Invalid { reason: error.to_string() }
}
