//! Parses an entrypoint: `file.wasm#function`.

use std::path::Path;

/// Takes an entrypoint apart: the program, and the export that is called instead of the usual entry point. A `#` with no name behind it
/// leaves the usual one.
pub fn split_function(entrypoint: &str) -> (&str, Option<&str>) {
    match entrypoint.rsplit_once('#') {
        Some((program, function)) if !program.is_empty() => (program, Some(function).filter(|name| !name.is_empty())),
        _ => (entrypoint, None),
    }
}

/// Returns whether the name of a file is that of wasm, binary or text.
pub fn is_named_wasm(program: &str) -> bool {
    Path::new(program).extension().is_some_and(|extension| extension == "wasm" || extension == "wat")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The function is the text after the last `#`; an empty name is no function, and a text without a program is itself the program.
    #[test]
    fn functions() {
        for (entrypoint, parts) in [
            ("a.wasm", ("a.wasm", None)),
            ("a.wasm#f", ("a.wasm", Some("f"))),
            ("a#b.wasm#f", ("a#b.wasm", Some("f"))),
            ("a.wasm#", ("a.wasm", None)),
            ("#f", ("#f", None)),
            ("", ("", None)),
        ] {
            assert_eq!(split_function(entrypoint), parts, "{entrypoint:?}");
        }
    }
}
