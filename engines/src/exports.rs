//! The exports of a module that are called, and the check that they can be.

use crate::{Guest, RunError, WasmKind, entry_point};

/// The relevant part of an export.
pub(crate) enum Export {
    /// A function.
    Function {
        /// Number of its parameters.
        parameters: usize,
    },
    /// Anything else.
    Other,
}

/// Returns the name of the function that is called: the function of the guest, else the export without a name, else the entry point.
/// `wasmtime run` calls the export without a name, too. `find` finds an export by its name.
pub(crate) fn entry(guest: &Guest, find: impl FnOnce(&str) -> Option<Export>) -> &str {
    const UNNAMED: &str = "";
    match guest.function.as_deref() {
        Some(function) => function,
        None if matches!(find(UNNAMED), Some(Export::Function { .. })) => UNNAMED,
        None => entry_point(WasmKind::Module),
    }
}

/// Returns the name of the function to call before, if the module exports it. A command initialises itself in its entry point; only a
/// library has a separate function.
pub(crate) fn initializer(guest: &Guest) -> Option<&'static str> {
    const NAME: &str = "_initialize";
    guest.function.as_deref().filter(|function| *function != NAME).map(|_| NAME)
}

/// Checks that the function can be called; `find` looks an export up by its name.
///
/// # Errors
/// [`RunError::NoSuchFunction`] names the actual export.
pub(crate) fn check(guest: &Guest, find: impl Fn(&str) -> Option<Export>) -> Result<(), RunError> {
    let name = entry(guest, &find);
    let reason = match find(name) {
        Some(Export::Function { parameters: 0 }) => return Ok(()),
        Some(Export::Function { .. }) => "it wants parameters",
        Some(Export::Other) => "it is no function",
        None => "there is none of that name",
    };
    Err(RunError::NoSuchFunction { function: name.to_owned(), reason: reason.to_owned() })
}
