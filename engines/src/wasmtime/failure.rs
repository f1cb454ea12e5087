//! Translates wasmtime's errors to those of this crate.

use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::{one_line, proposals};
use crate::end::End;
use crate::{CompileError, RunError};

/// Distinguishes the guest's own exit from a trap, and both from a failure before the guest ran.
pub(super) fn outcome(error: &wasmtime::Error) -> Result<u8, RunError> {
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    let end = if let Some(I32Exit(code)) = error.downcast_ref() {
        End::Exited(code.cast_unsigned())
    } else if let Some(backtrace) = backtrace {
        End::Trapped(format!("{}\n{backtrace}", one_line(error)))
    } else if error.is::<Trap>() {
        End::Trapped(one_line(error))
    } else {
        End::NotStarted(one_line(error))
    };
    end.exit_code()
}

/// Makes the error of a function that cannot be called.
pub(super) fn no_such_function(function: &str, reason: &str) -> RunError {
    RunError::NoSuchFunction { function: function.to_string(), reason: reason.to_string() }
}

/// Makes the error of bytes that are not valid wasm, with the option that takes them if a proposal is missing.
pub(super) fn invalid(error: wasmparser::BinaryReaderError) -> CompileError {
    let mut reason = error.to_string();
    if let Some(proposal) = proposals::refused_by(&reason) {
        reason.push_str(&format!("; the option wasm_proposals = [\"{proposal}\"] enables it"));
    }
    CompileError::Invalid { reason }
}

/// Parses the names from the error's text: wasmtime provides them nowhere else. The first message has the interface. The second one has
/// the item, if it belongs to an interface.
pub(super) fn unknown_import(error: &wasmtime::Error) -> CompileError {
    let mut names = error.chain().map(|cause| {
        let cause = cause.to_string();
        cause.split('`').nth(1).map(str::to_string)
    });
    match (names.next().flatten(), names.next().flatten()) {
        (Some(module), name) => CompileError::UnknownImport { module, name: name.unwrap_or_default() },
        (None, _) => unsupported(one_line(error)),
    }
}

/// Makes the error of valid wasm that this engine does not support.
pub(super) fn unsupported(reason: impl ToString) -> CompileError {
    CompileError::Unsupported { reason: reason.to_string() }
}
