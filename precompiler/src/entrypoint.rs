//! How an entrypoint says what is called: `file.wasm#function`.

use std::path::Path;

/// Takes an entrypoint apart: the program, and the export that is called instead of the usual entry point.
pub fn split_function(entrypoint: &str) -> (&str, Option<&str>) {
    match entrypoint.rsplit_once('#') {
        Some((program, function)) if !program.is_empty() && !function.is_empty() => (program, Some(function)),
        _ => (entrypoint, None),
    }
}

/// Says whether a name alone says that a file is wasm, binary or text.
pub fn is_named_wasm(program: &str) -> bool {
    Path::new(program).extension().is_some_and(|extension| extension == "wasm" || extension == "wat")
}
