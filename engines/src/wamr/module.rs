//! Examines a module before it runs: its validity, imports and exports, and its needs of memory.
//!
//! WAMR acts on the names of some exports. While it makes an instance, it calls `_initialize` and others by itself. It
//! shrinks a memory if it finds `__heap_base`, and has extra demands on a module with a `_start`. But a guest must
//! begin only when the caller runs it, and with all the memory that it asks for. So these exports have other names of
//! the same length in the copy of the bytes that WAMR gets.

use std::collections::{BTreeMap, BTreeSet};

use wasmparser::types::{EntityType, TypesRef};
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

use crate::{CompileError, Wasm, WasmKind, preview1};

/// Features of WAMR's fast interpreter in this build: the second standard without SIMD, and the extras that Cargo.toml
/// selects.
const FEATURES: WasmFeatures = WasmFeatures::WASM2
    .difference(WasmFeatures::SIMD)
    .union(WasmFeatures::GC_TYPES)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::TAIL_CALL);

/// Names of exports that WAMR would act upon.
const ACTED_UPON: [&str; 6] =
    ["_start", "_initialize", "__post_instantiate", "__wasm_call_ctors", "__heap_base", "__data_end"];

/// The export by which WASI finds the memory.
const MEMORY: &str = "memory";

/// The relevant facts about an export.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Export {
    /// A function.
    Function {
        /// Its name in the bytes that WAMR gets.
        name: String,
        params: usize,
        results: usize,
    },
    /// Anything else.
    Other,
}

/// A valid module. WAMR provides all its imports.
#[derive(Debug)]
pub(super) struct Module {
    /// The module's bytes, with the names of some exports changed.
    pub(super) bytes: Vec<u8>,
    pub(super) exports: BTreeMap<String, Export>,
    /// Initial and maximum pages of its memory.
    pub(super) pages: Option<(u64, u64)>,
    /// Bytes that its tables take from the start on.
    pub(super) tables: u64,
}

impl Module {
    /// Validates a module and its imports.
    ///
    /// # Errors
    /// [`CompileError`] for a component, invalid wasm, an unknown import, or a memory that WASI cannot find.
    pub(super) fn read(wasm: &Wasm) -> Result<Self, CompileError> {
        if wasm.kind() == WasmKind::Component {
            return Err(unsupported("wamr runs core modules, and this is a component"));
        }
        let types = Validator::new_with_features(FEATURES).validate_all(wasm.bytes()).map_err(invalid)?;
        let types = types.as_ref();
        check_imports(types)?;
        let has_memory = types
            .core_exports()
            .into_iter()
            .flatten()
            .any(|(name, entity)| name == MEMORY && matches!(entity, EntityType::Memory(_)));
        if !has_memory && types.core_imports().into_iter().flatten().next().is_some() {
            return Err(unsupported("with wamr, a module that imports WASI must export its memory as \"memory\""));
        }
        let (bytes, renamed) = rename(wasm.bytes())?;
        let pages = (types.memory_count() > 0).then(|| {
            let memory = types.memory_at(0);
            (memory.initial, memory.maximum.unwrap_or(1 << 16))
        });
        let tables = (0..types.table_count()).map(|index| {
            let table = types.table_at(index);
            reserved(table.initial, table.maximum)
        });
        let tables = tables.fold(0_u64, |sum, elements| sum.saturating_add(elements.saturating_mul(ELEMENT)));
        Ok(Self { bytes, exports: exports(types, &renamed), pages, tables })
    }
}

/// Bytes of an element of a table.
const ELEMENT: u64 = size_of::<usize>() as u64;

/// Returns the number of elements that WAMR reserves. WAMR never enlarges a table, so it reserves room for all growth.
fn reserved(initial: u64, maximum: Option<u64>) -> u64 {
    const LEAST: u64 = 1024;
    let most = initial.saturating_mul(2).max(LEAST);
    maximum.map_or(most, |maximum| maximum.min(most)).max(initial)
}

fn check_imports(types: TypesRef<'_>) -> Result<(), CompileError> {
    for (module, name, entity) in types.core_imports().into_iter().flatten() {
        let fits = match entity {
            EntityType::Func(id) | EntityType::FuncExact(id) => {
                let function = types[id].unwrap_func();
                preview1::offers(module, name, function.params(), function.results())
            }
            _ => false,
        };
        if !fits {
            return Err(CompileError::UnknownImport { module: module.to_owned(), name: name.to_owned() });
        }
    }
    Ok(())
}

/// New names of exports, by their former names.
type Renamed = BTreeMap<&'static str, String>;

/// Renames the exports that WAMR would act upon. Returns the bytes, and the new names by the former ones.
fn rename(bytes: &[u8]) -> Result<(Vec<u8>, Renamed), CompileError> {
    let (mut names, mut found) = (BTreeSet::new(), Vec::new());
    for payload in Parser::new(0).parse_all(bytes) {
        let Payload::ExportSection(section) = payload.map_err(invalid)? else { continue };
        for export in section {
            let name = export.map_err(invalid)?.name;
            names.insert(name);
            if let Some(special) = ACTED_UPON.iter().find(|special| **special == name) {
                // The name is a part of the bytes, so the addresses give its offset.
                found.push((*special, name.as_ptr().addr() - bytes.as_ptr().addr()));
            }
        }
    }
    let (mut bytes, mut renamed) = (bytes.to_vec(), BTreeMap::new());
    for (name, offset) in found {
        let other = (b'a'..=b'z').map(|first| format!("{}{}", char::from(first), &name[1..]));
        let Some(other) = other.into_iter().find(|other| !names.contains(other.as_str())) else {
            return Err(unsupported("wamr needs another name for an export, and all are taken"));
        };
        bytes[offset..offset + other.len()].copy_from_slice(other.as_bytes());
        renamed.insert(name, other);
    }
    Ok((bytes, renamed))
}

fn exports(types: TypesRef<'_>, renamed: &Renamed) -> BTreeMap<String, Export> {
    let exports = types.core_exports().into_iter().flatten().map(|(name, entity)| {
        let export = match entity {
            EntityType::Func(id) | EntityType::FuncExact(id) => {
                let function = types[id].unwrap_func();
                Export::Function {
                    name: renamed.get(name).cloned().unwrap_or_else(|| name.to_owned()),
                    params: function.params().len(),
                    results: function.results().len(),
                }
            }
            _ => Export::Other,
        };
        (name.to_owned(), export)
    });
    exports.collect()
}

fn invalid(error: wasmparser::BinaryReaderError) -> CompileError {
    CompileError::Invalid { reason: error.to_string() }
}

fn unsupported(reason: &str) -> CompileError {
    CompileError::Unsupported { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Module {
        Module::read(&Wasm::from_text(text.as_bytes()).unwrap()).unwrap()
    }

    /// Exports that WAMR would act upon get names that no other export has. The module stays valid and has the new
    /// names.
    #[test]
    fn exports_are_renamed() {
        let module = read(
            r#"(module (func (export "_start")) (func (export "astart") (param i32)) (func (export "_initialize"))
                (memory 1) (global (export "__heap_base") i32 (i32.const 8)) (func (export "else") (result i32 i64)
                    (i32.const 0) (i64.const 0)))"#,
        );
        let function = |name: &str, params, results| Export::Function { name: name.to_owned(), params, results };
        assert_eq!(module.exports["_start"], function("bstart", 0, 0));
        assert_eq!(module.exports["astart"], function("astart", 1, 0));
        assert_eq!(module.exports["_initialize"], function("ainitialize", 0, 0));
        assert_eq!(module.exports["else"], function("else", 0, 2));
        assert_eq!(module.exports["__heap_base"], Export::Other);
        let again = Module::read(&Wasm::new(module.bytes).unwrap()).unwrap();
        for name in ACTED_UPON {
            assert!(!again.exports.contains_key(name), "{name}");
        }
    }

    /// `read` counts a module's needs: pages of its memory, and its tables as WAMR makes them.
    #[test]
    fn needs_are_counted() {
        assert_eq!(read("(module (memory 2 5))").pages, Some((2, 5)));
        assert_eq!(read("(module (memory 0))").pages, Some((0, 1 << 16)));
        assert_eq!(read("(module)").pages, None);
        for (table, elements) in
            [("10 10", 10), ("10 20", 20), ("10 5000", 1024), ("10", 1024), ("2000", 4000), ("2000 100000", 4000)]
        {
            assert_eq!(read(&format!("(module (table {table} funcref))")).tables, elements * ELEMENT, "{table}");
        }
    }
}
