//! Forms of wasm: each is compiled with different settings. The form follows from the bytes alone, so it need not be part of a
//! fingerprint.

use wasmparser::{CanonicalFunction, CanonicalOption, FromReader, Parser, Payload, SectionLimited};

use super::failure::invalid;
use crate::{CompileError, Wasm, WasmKind};

/// A form of wasm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A core module: runs at full speed, and ends with its process.
    Module,
    /// A component: can be interrupted.
    Component,
    /// A component with several concurrent tasks, as in WASI preview 3.
    Async,
}

impl Form {
    /// Finds the form of wasm.
    ///
    /// # Errors
    /// [`CompileError::Invalid`] if the wasm cannot be read.
    pub(super) fn of(wasm: &Wasm) -> Result<Self, CompileError> {
        if wasm.kind() == WasmKind::Module {
            return Ok(Self::Module);
        }
        for payload in Parser::new(0).parse_all(wasm.bytes()) {
            let is_async = match payload.map_err(invalid)? {
                Payload::ComponentCanonicalSection(section) => any(section, |function| is_async(&function)),
                Payload::ComponentImportSection(section) => any(section, |import| is_preview_3(import.name.name)),
                Payload::ComponentExportSection(section) => any(section, |export| is_preview_3(export.name.name)),
                _ => Ok(false),
            };
            if is_async.map_err(invalid)? {
                return Ok(Self::Async);
            }
        }
        Ok(Self::Component)
    }
}

fn any<'a, T: FromReader<'a>>(
    section: SectionLimited<'a, T>,
    is: impl Fn(T) -> bool,
) -> Result<bool, wasmparser::BinaryReaderError> {
    for item in section {
        if is(item?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_preview_3(name: &str) -> bool {
    name.starts_with("wasi:") && name.split_once('@').is_some_and(|(_, version)| version.starts_with("0.3."))
}

fn is_async(function: &CanonicalFunction) -> bool {
    match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
            options.contains(&CanonicalOption::Async)
        }
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => false,
        // Tasks, streams, futures, waitable sets, threads.
        _ => true,
    }
}
