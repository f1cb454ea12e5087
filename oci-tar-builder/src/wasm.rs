//! The format of bytes: a module, a component, or something that must not be packed.
//!
//! The packer validates all bytes, so it refuses a truncated file before the file reaches a node.

use std::collections::BTreeSet;

use prewasi_oci::{PreambleError, WasmKind};
use wasmparser::{
    ComponentExternName, FuncValidatorAllocations, Parser, Payload, ValidPayload, Validator, WasmFeatures,
};

/// The kind and interface of validated wasm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wasm {
    /// Which of the two formats it has.
    pub kind: WasmKind,
    /// The imports and exports of a component. A module has none here: its names are of another kind, and nobody looks them up.
    pub interface: Option<Interface>,
}

/// The names that a component imports and exports at its outermost level, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// The names that the host must provide.
    pub imports: BTreeSet<String>,
    /// The names that the host may call.
    pub exports: BTreeSet<String>,
}

/// The reason why bytes are not valid wasm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WasmError {
    /// They do not begin as wasm does.
    #[error(transparent)]
    Preamble(#[from] PreambleError),
    /// It ends before it should.
    #[error("it is truncated: the wasm ends in the middle, after {size} bytes")]
    Truncated {
        /// Length in bytes.
        size: usize,
    },
    /// It begins as wasm does, but is not valid.
    #[error("it is no valid wasm: {message} at byte {offset}")]
    Invalid {
        /// The message of the validator.
        message: String,
        /// Where.
        offset: usize,
    },
    /// It is wasm in text form.
    #[error("it is wasm text, not the binary format")]
    Text,
}

impl Wasm {
    /// Reads and validates `bytes`.
    ///
    /// # Errors
    /// [`WasmError`] names the problem with the bytes.
    pub fn validate(bytes: &[u8]) -> Result<Self, WasmError> {
        let kind = kind(bytes)?;
        let interface = read(bytes)?;
        Ok(Self { kind, interface: (kind == WasmKind::Component).then_some(interface) })
    }
}

impl Interface {
    /// Returns the standard world that a component targets: one whose entry it exports and whose packages suffice for
    /// its imports.
    pub(crate) fn target(&self) -> Option<String> {
        const COMMAND: [&str; 6] =
            ["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:io", "wasi:random", "wasi:sockets"];
        const PROXY: [&str; 5] = ["wasi:cli", "wasi:clocks", "wasi:http", "wasi:io", "wasi:random"];
        const WORLDS: [(&str, &str, &[&str]); 2] = [
            ("wasi:cli/run@", "wasi:cli/command@", &COMMAND),
            ("wasi:http/incoming-handler@", "wasi:http/proxy@", &PROXY),
        ];
        WORLDS.iter().find_map(|(entry, world, packages)| {
            let version = self.exports.iter().find_map(|name| name.strip_prefix(entry))?;
            let known = |name: &String| name.split_once('/').is_some_and(|(package, _)| packages.contains(&package));
            self.imports.iter().all(known).then(|| format!("{world}{version}"))
        })
    }
}

/// Reads the format from the first bytes, and refuses other formats by their names.
fn kind(bytes: &[u8]) -> Result<WasmKind, WasmError> {
    let start = bytes.trim_ascii_start();
    match WasmKind::of(bytes) {
        // A module may follow comments; a guess at the text format only has to be good enough for a hint.
        Err(PreambleError::NotWasm) if start.starts_with(b"(module") || start.starts_with(b"(component") => {
            Err(WasmError::Text)
        }
        kind => Ok(kind?),
    }
}

/// Validates module or component to the last byte, functions and nested modules included.
fn read(bytes: &[u8]) -> Result<Interface, WasmError> {
    let truncated = || WasmError::Truncated { size: bytes.len() };
    let invalid = |error: wasmparser::Error| {
        // The parser has no kind of error for this, only its words.
        if error.message().starts_with("unexpected end") {
            truncated()
        } else {
            WasmError::Invalid { message: error.message().to_owned(), offset: error.offset() }
        }
    };
    // All standardised features, exceptions and garbage collection included; the engine decides which of them it runs.
    let features = WasmFeatures::default() | WasmFeatures::LEGACY_EXCEPTIONS | WasmFeatures::WIDE_ARITHMETIC;
    let mut validator = Validator::new_with_features(features);
    let mut parser = Parser::new(0);
    parser.set_features(features);
    let mut allocations = FuncValidatorAllocations::default();
    let mut functions = Vec::new();
    let mut interface = Interface::default();
    let mut depth = 0_usize;
    for payload in parser.parse_all(bytes) {
        let payload = payload.map_err(invalid)?;
        match &payload {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            // The parser takes the end of the file for the end of all that is open, if a section ends there.
            Payload::ModuleSection { unchecked_range: range, .. }
            | Payload::ComponentSection { unchecked_range: range, .. }
                if range.end > bytes.len() =>
            {
                return Err(truncated());
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section.clone() {
                    interface.imports.insert(own_name(&import.map_err(invalid)?.name));
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section.clone() {
                    interface.exports.insert(own_name(&export.map_err(invalid)?.name));
                }
            }
            _ => {}
        }
        // A body can only be checked when its module has been read to the end.
        match validator.payload(&payload).map_err(invalid)? {
            ValidPayload::Func(function, body) => functions.push((function, body)),
            ValidPayload::End(_) => {
                for (function, body) in functions.drain(..) {
                    let mut validator = function.into_validator(allocations);
                    validator.validate(&body).map_err(invalid)?;
                    allocations = validator.into_allocations();
                }
            }
            _ => {}
        }
    }
    Ok(interface)
}

fn own_name(name: &ComponentExternName<'_>) -> String {
    name.name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    const MODULE: &str = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "some bytes that can be cut off")
        (func (export "_start") (call $exit (i32.const 7))))"#;

    const COMPONENT: &str = r#"(component
        (import "wasi:io/poll@0.2.6" (instance))
        (component (import "inner" (instance)))
        (core module (func (export "f")))
        (core instance $i (instantiate 0))
        (func $f (canon lift (core func $i "f")))
        (instance $run (export "run" (func $f)))
        (export "wasi:cli/run@0.2.6" (instance $run))
        (export "other" (func $f)))"#;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// A module is told from a component, and only the latter has an interface.
    #[test]
    fn recognises_both_formats() {
        let module = Wasm::validate(&bytes(MODULE)).unwrap();
        assert_eq!(module, Wasm { kind: WasmKind::Module, interface: None });
        let component = Wasm::validate(&bytes(COMPONENT)).unwrap();
        assert_eq!(component.kind, WasmKind::Component);
    }

    /// Imports and exports are those of the outermost component, and name the world that it targets.
    #[test]
    fn reads_the_interface() {
        let interface = Wasm::validate(&bytes(COMPONENT)).unwrap().interface.unwrap();
        assert_eq!(interface.imports, names(&["wasi:io/poll@0.2.6"]));
        assert_eq!(interface.exports, names(&["other", "wasi:cli/run@0.2.6"]));
        assert_eq!(interface.target().as_deref(), Some("wasi:cli/command@0.2.6"));
    }

    /// A component that needs more than a standard world has, or exports no entry of one, targets none.
    #[test]
    fn foreign_imports_target_no_world() {
        let entry = names(&["wasi:http/incoming-handler@0.2.0"]);
        let proxy = Interface { imports: names(&["wasi:http/types@0.2.0"]), exports: entry.clone() };
        assert_eq!(proxy.target().as_deref(), Some("wasi:http/proxy@0.2.0"));
        let more = Interface { imports: names(&["wasi:http/types@0.2.0", "me:app/x"]), exports: entry };
        assert_eq!(more.target(), None);
        assert_eq!(Interface::default().target(), None);
    }

    /// A cut in the middle of a section is refused, and so is one that leaves functions without code. A cut between two sections is not
    /// refused if the rest is valid: no part of a wasm file says how many sections follow.
    #[test]
    fn cuts_inside_of_sections_are_refused() {
        for whole in [bytes(MODULE), bytes(COMPONENT)] {
            for size in 1..whole.len() {
                match Wasm::validate(&whole[..size]) {
                    Err(
                        WasmError::Truncated { size: told }
                        | WasmError::Preamble(PreambleError::Truncated { size: told }),
                    ) => {
                        assert_eq!(told, size);
                    }
                    Err(WasmError::Invalid { .. }) => {}
                    Ok(_) => assert!(is_boundary(&whole, size), "{size} of {} bytes were taken", whole.len()),
                    Err(other) => panic!("{size} of {} bytes: {other:?}", whole.len()),
                }
            }
        }
        let whole = bytes(MODULE);
        assert_eq!(Wasm::validate(&whole[..whole.len() - 5]), Err(WasmError::Truncated { size: whole.len() - 5 }));
    }

    /// Says whether a section of the outermost level ends at `size`, or the preamble.
    fn is_boundary(whole: &[u8], size: usize) -> bool {
        size == 8
            || Parser::new(0)
                .parse_all(whole)
                .filter_map(|payload| payload.unwrap().as_section().map(|(_, range)| range.end))
                .any(|end| end == size)
    }

    /// A function that does not type-check is refused, also in a module within a component.
    #[test]
    fn refuses_wrong_code() {
        for text in ["(module (func (result i32)))", "(component (core module (func (result i32))))"] {
            assert!(matches!(Wasm::validate(&bytes(text)), Err(WasmError::Invalid { .. })), "{text}");
        }
    }

    /// Exceptions of both kinds are taken: real toolchains emit them.
    #[test]
    fn takes_exceptions() {
        for text in [
            "(module (tag $t) (func (block $b (try_table (catch $t $b) (throw $t)))))",
            "(module (tag $t) (func try throw $t catch $t end))",
        ] {
            assert!(Wasm::validate(&bytes(text)).is_ok(), "{text}");
        }
    }

    /// Bytes of another format are refused, and the error names the format.
    #[test]
    fn refuses_the_rest() {
        let refused = |bytes| Wasm::validate(bytes).unwrap_err();
        assert_eq!(refused(b""), PreambleError::Empty.into());
        assert_eq!(refused(b"\x7fELF\x02\x01\x01"), PreambleError::NativeCode { format: "ELF" }.into());
        assert_eq!(refused(b"\0asm"), PreambleError::Truncated { size: 4 }.into());
        assert_eq!(refused(b"\0asm\x07\0\0\0"), PreambleError::Version { version: 7 }.into());
        assert_eq!(refused(b"\n (module)"), WasmError::Text);
        assert_eq!(refused(b"#!/bin/sh"), PreambleError::NotWasm.into());
    }
}
