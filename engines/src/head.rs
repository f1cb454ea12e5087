//! Checks the sections before a module's code, which show already that a module could not run.
//!
//! They are read before the compile, because compiling takes seconds and a container that cannot start is started again and again.
//!
//! Two engines need more than these sections. wasmtime's own linker knows which imports of a component it provides, so it checks those of
//! modules too. WAMR compiles nothing: it validates the whole module, and takes the imports from the result.

use wasmparser::{BinaryReaderError, FuncType, ImportSectionReader, MemorySectionReader, Parser, Payload, TypeRef};

use crate::{CompileError, Wasm, WasmKind, preview1};

/// Refuses wasm that could not run: a component, an import that the engine does not provide, shared memory.
///
/// # Errors
/// [`CompileError`] names the fault in the wasm.
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

/// Refuses shared memories: there are no threads to share them with, and the limit of memory would not count them.
fn check_memories(section: MemorySectionReader<'_>) -> Result<(), CompileError> {
    for memory in section {
        if memory.map_err(invalid)?.shared {
            let reason = "it has a shared memory, and threads are not supported; build it without them";
            return Err(CompileError::Unsupported { reason: reason.to_owned() });
        }
    }
    Ok(())
}

/// Makes the error of wasm that breaks the rules, with the offset.
pub(crate) fn invalid(error: BinaryReaderError) -> CompileError {
    CompileError::Invalid { reason: error.to_string() }
}
