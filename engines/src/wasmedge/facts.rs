//! Facts about a module before it runs: its exports, and the memory that it needs.

use std::collections::BTreeMap;

use wasmparser::{BinaryReaderError, Chunk, ExternalKind, FuncType, Parser, Payload, TypeRef};

use crate::exports::Export;

/// Size of a table's element, in bytes: a reference with its type.
const ELEMENT: u64 = 16;
/// Size of a page of linear memory, in bytes.
const PAGE: u64 = 64 << 10;
/// Maximum number of pages of a memory.
const MOST: u64 = 1 << 16;

/// Facts about a module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// For each export, the number of its parameters if it is a function.
    exports: BTreeMap<String, Option<usize>>,
    /// For each memory, its initial pages.
    memories: Vec<u64>,
    /// Initial bytes of all tables.
    tables: u64,
}

impl Facts {
    /// Reads a valid module, except its code.
    pub(super) fn read(mut wasm: &[u8]) -> Result<Self, BinaryReaderError> {
        let (mut facts, mut types, mut functions) = (Self::default(), Vec::new(), Vec::new());
        let mut parser = Parser::new(0);
        loop {
            let (length, payload) = match parser.parse(wasm, true)? {
                Chunk::Parsed { consumed, payload } => (consumed, payload),
                // The parser knows that no more data comes, so it does not ask for any.
                Chunk::NeedMoreData(_) => return Ok(facts),
            };
            wasm = &wasm[length..];
            match payload {
                Payload::TypeSection(section) => {
                    types = section.into_iter_err_on_gc_types().collect::<Result<Vec<FuncType>, _>>()?;
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        if let TypeRef::Func(ty) | TypeRef::FuncExact(ty) = import?.ty {
                            functions.push(ty);
                        }
                    }
                }
                Payload::FunctionSection(section) => {
                    functions.extend(section.into_iter().collect::<Result<Vec<u32>, _>>()?);
                }
                Payload::TableSection(section) => {
                    for table in section {
                        facts.tables = facts.tables.saturating_add(table?.ty.initial.saturating_mul(ELEMENT));
                    }
                }
                Payload::MemorySection(section) => {
                    for memory in section {
                        facts.memories.push(memory?.initial);
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        let function = match export.kind {
                            ExternalKind::Func | ExternalKind::FuncExact => functions.get(export.index as usize),
                            _ => None,
                        };
                        let parameters = function.and_then(|ty| types.get(*ty as usize)).map(|ty| ty.params().len());
                        facts.exports.insert(export.name.to_owned(), parameters);
                    }
                }
                Payload::CodeSectionStart { size, .. } => {
                    parser.skip_section();
                    wasm = wasm.get(size as usize..).unwrap_or_default();
                }
                Payload::End(_) => return Ok(facts),
                _ => {}
            }
        }
    }

    /// Finds an export.
    pub(super) fn export(&self, name: &str) -> Option<Export> {
        let export = self.exports.get(name)?;
        Some(export.map_or(Export::Other, |parameters| Export::Function { parameters }))
    }

    /// Returns the maximum pages of each memory, if all of the guest's memory together may have `limit` bytes. The
    /// growth of tables does not count: WasmEdge asks nobody.
    ///
    /// # Errors
    /// The reason why the guest cannot even begin.
    pub(super) fn pages(&self, limit: u64) -> Result<u64, String> {
        let begins =
            self.memories.iter().fold(self.tables, |sum, pages| sum.saturating_add(pages.saturating_mul(PAGE)));
        if begins > limit {
            return Err(format!(
                "its memory and tables begin with {begins} bytes, which exceeds memory limits ({limit})"
            ));
        }
        // WasmEdge has one limit for all memories.
        let pages = (limit - self.tables) / PAGE / self.memories.len().max(1) as u64;
        match self.memories.iter().max() {
            Some(most) if *most > pages => Err(format!(
                "it has {} memories, and one of them exceeds memory limits ({limit}) that are the same for all of them",
                self.memories.len()
            )),
            _ => Ok(pages.min(MOST)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Facts {
        Facts::read(&wat::parse_str(text).unwrap()).unwrap()
    }

    /// `read` finds exports behind imports, and tells their kinds apart.
    #[test]
    fn exports_are_read() {
        let facts = read(
            r#"(module (import "a" "b" (func (param i32 i32))) (memory (export "memory") 1)
                (func (export "one") (param i32)) (func (export "_start") (result i32) (i32.const 0)))"#,
        );
        let parameters = |name| match facts.export(name) {
            Some(Export::Function { parameters }) => Some(parameters),
            _ => None,
        };
        assert_eq!((parameters("one"), parameters("_start"), parameters("memory")), (Some(1), Some(0), None));
        assert!(matches!(facts.export("memory"), Some(Export::Other)) && facts.export("none").is_none());
    }

    /// A module's initial sizes count, and its memories share the rest of the limit.
    #[test]
    fn memory_is_shared_out() {
        assert_eq!(read("(module (memory 1))").pages(PAGE * 3 + 1), Ok(3));
        assert_eq!(read("(module (memory 1) (table 10 funcref))").pages(PAGE * 3), Ok(2));
        assert_eq!(read("(module (memory 1) (memory 2))").pages(PAGE * 8), Ok(4));
        assert_eq!(read("(module (memory 1))").pages(u64::MAX), Ok(MOST));
        assert!(read("(module (memory 2))").pages(PAGE).unwrap_err().contains("exceeds memory limits"));
        assert!(read("(module (memory 1) (memory 4))").pages(PAGE * 6).unwrap_err().contains("2 memories"));
    }
}
