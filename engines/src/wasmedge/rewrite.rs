//! The changes to a module before WasmEdge compiles it.
//!
//! - Custom sections are left out. WasmEdge would take one that is named `wasmedge` for native code and run it.
//! - The start function becomes an export, [`START`], so that it is called like any other.
//! - An import is added, [`HOLD`], and an export of the same name that does nothing but call it. Functions of the guest are
//!   called from within that import, when WasmEdge has made itself ready for faults (see `wasmedge/stack.rs`).

use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{
    CodeSection, DataCountSection, DataSection, ElementSection, EntityType, ExportKind, ExportSection, Function,
    FunctionSection, GlobalSection, ImportSection, MemorySection, Module, RawSection, TableSection, TagSection,
    TypeSection,
};
use wasmparser::{Parser, Payload, TypeRef};

/// Name of the module from which [`HOLD`] is imported.
pub(super) const MODULE: &str = "prewasi";
/// Name of the import and the export that calls it.
pub(super) const HOLD: &str = "prewasi:hold";
/// Name of the export that is the start function.
pub(super) const START: &str = "prewasi:start";

/// Changes a valid module.
///
/// # Errors
/// The reason why it cannot be changed.
pub(super) fn rewrite(wasm: &[u8]) -> Result<Vec<u8>, String> {
    let mut sections = Sections::default();
    let mut indices = Indices::default();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(|error| error.to_string())?;
        sections.take(&mut indices, payload).map_err(|error| error.to_string())?;
    }
    Ok(sections.finish(&indices))
}

/// Returns the module with functions that do nothing: everything stays but the code.
///
/// # Errors
/// The reason why it cannot be read.
pub(super) fn hollow(wasm: &[u8]) -> Result<Vec<u8>, String> {
    let (mut module, mut code) = (Module::new(), CodeSection::new());
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(|error| error.to_string())? {
            Payload::CodeSectionEntry(_) => {
                let mut function = Function::new([]);
                function.instructions().unreachable().end();
                code.function(&function);
            }
            payload => {
                if matches!(payload, Payload::DataSection(_)) {
                    module.section(&code);
                }
                if let Some((id, range)) = payload.as_section()
                    && !matches!(payload, Payload::CodeSectionStart { .. })
                {
                    module.section(&RawSection { id, data: &wasm[range] });
                }
            }
        }
    }
    Ok(module.finish())
}

/// The numbers of functions in the new module: the added import follows the others, and the added function is the last.
#[derive(Default)]
struct Indices {
    imported: u32,
    defined: u32,
}

impl Indices {
    fn hold(&self) -> u32 {
        self.imported + 1 + self.defined
    }
}

impl Reencode for Indices {
    type Error = Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, Error<Infallible>> {
        Ok(if function < self.imported { function } else { function + 1 })
    }
}

/// The sections of the new module.
#[derive(Default)]
struct Sections {
    types: TypeSection,
    imports: ImportSection,
    functions: FunctionSection,
    tables: TableSection,
    memories: MemorySection,
    tags: TagSection,
    globals: GlobalSection,
    exports: ExportSection,
    elements: ElementSection,
    count: Option<u32>,
    code: CodeSection,
    data: DataSection,
}

impl Sections {
    fn take(&mut self, indices: &mut Indices, payload: Payload<'_>) -> Result<(), Error<Infallible>> {
        match payload {
            Payload::TypeSection(section) => indices.parse_type_section(&mut self.types, section)?,
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    indices.imported += u32::from(matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
                }
                indices.parse_import_section(&mut self.imports, section)?;
            }
            Payload::FunctionSection(section) => {
                indices.defined = section.count();
                indices.parse_function_section(&mut self.functions, section)?;
            }
            Payload::TableSection(section) => indices.parse_table_section(&mut self.tables, section)?,
            Payload::MemorySection(section) => indices.parse_memory_section(&mut self.memories, section)?,
            Payload::TagSection(section) => indices.parse_tag_section(&mut self.tags, section)?,
            Payload::GlobalSection(section) => indices.parse_global_section(&mut self.globals, section)?,
            Payload::ExportSection(section) => indices.parse_export_section(&mut self.exports, section)?,
            Payload::StartSection { func, .. } => {
                self.exports.export(START, ExportKind::Func, indices.function_index(func)?);
            }
            Payload::ElementSection(section) => indices.parse_element_section(&mut self.elements, section)?,
            Payload::DataCountSection { count, .. } => self.count = Some(count),
            Payload::CodeSectionEntry(body) => indices.parse_function_body(&mut self.code, body)?,
            Payload::DataSection(section) => indices.parse_data_section(&mut self.data, section)?,
            _ => {}
        }
        Ok(())
    }

    fn finish(mut self, indices: &Indices) -> Vec<u8> {
        let nothing = self.types.len();
        self.types.ty().function([], []);
        self.imports.import(MODULE, HOLD, EntityType::Function(nothing));
        self.functions.function(nothing);
        self.exports.export(HOLD, ExportKind::Func, indices.hold());
        let mut hold = Function::new([]);
        hold.instructions().call(indices.imported).end();
        self.code.function(&hold);
        let mut module = Module::new();
        module.section(&self.types).section(&self.imports).section(&self.functions);
        module.section(&self.tables).section(&self.memories);
        // A module without exceptions must not need a decoder that knows them.
        if !self.tags.is_empty() {
            module.section(&self.tags);
        }
        module.section(&self.globals).section(&self.exports).section(&self.elements);
        if let Some(count) = self.count {
            module.section(&DataCountSection { count });
        }
        module.section(&self.code).section(&self.data);
        module.finish()
    }
}

#[cfg(test)]
mod tests {
    use wasmparser::Validator;

    use super::*;

    fn rewritten(text: &str) -> Vec<u8> {
        let bytes = rewrite(&wat::parse_str(text).unwrap()).unwrap();
        Validator::new().validate_all(&bytes).unwrap();
        bytes
    }

    fn contains(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// The new module is valid, with every kind of section.
    #[test]
    fn modules_stay_valid() {
        for text in [
            "(module)",
            r#"(module (memory 1) (data "x") (func (memory.init 0 (i32.const 0) (i32.const 0) (i32.const 1))))"#,
            r#"(module (tag $t) (func (export "_start") (throw $t)))"#,
            r#"(module
                (import "wasi_snapshot_preview1" "path_open"
                    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (table funcref (elem $open $exit $start))
                (global funcref (ref.func $open))
                (func $start (call $exit (i32.const 0)))
                (start $start)
                (export "open" (func $open)))"#,
        ] {
            let bytes = rewritten(text);
            assert!(contains(&bytes, HOLD), "{text}");
            assert_eq!(contains(&bytes, START), text.contains("(start"), "{text}");
        }
    }

    /// Without code, the rest is unchanged, and valid as far as WasmEdge checks.
    #[test]
    fn code_is_left_out() {
        let whole =
            rewritten(r#"(module (memory 1) (data "data") (func (export "long") nop nop nop nop nop nop nop nop))"#);
        let hollow = hollow(&whole).unwrap();
        Validator::new().validate_all(&hollow).unwrap();
        assert!(hollow.len() < whole.len() && contains(&hollow, "data") && contains(&hollow, "long"));
    }

    /// No custom section remains: neither names, nor a section that WasmEdge would take for native code.
    #[test]
    fn custom_sections_are_left_out() {
        let bytes = rewritten(r#"(module $name (@custom "wasmedge" "native code") (func $function))"#);
        assert!(!contains(&bytes, "native code") && !contains(&bytes, "wasmedge") && !contains(&bytes, "function"));
    }

    /// A module that already exports the added name becomes invalid.
    #[test]
    fn names_are_taken_once() {
        let bytes = rewrite(&wat::parse_str(format!(r#"(module (func (export "{HOLD}")))"#)).unwrap()).unwrap();
        assert!(Validator::new().validate_all(&bytes).is_err());
    }
}
