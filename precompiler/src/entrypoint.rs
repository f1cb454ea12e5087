//! Parses an entrypoint: `file.wasm#function`.

use std::path::Path;

/// Splits an entrypoint into the program, and the export to call instead of the usual entry point.
pub fn split_function(entrypoint: &str) -> (&str, Option<&str>) {
    match entrypoint.rsplit_once('#') {
        Some((program, function)) if !program.is_empty() && !function.is_empty() => (program, Some(function)),
        _ => (entrypoint, None),
    }
}

/// Returns whether the name of a file is that of wasm, binary or text.
pub fn is_named_wasm(program: &str) -> bool {
    Path::new(program).extension().is_some_and(|extension| extension == "wasm" || extension == "wat")
}
