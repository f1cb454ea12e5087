//! Which exports of a module are called, and whether they can be.

use crate::{Guest, RunError, WasmKind, entry_point};

/// An export, as far as it matters.
pub(crate) enum Export {
    /// A function.
    Function {
        /// How many there are.
        parameters: usize,
    },
    /// Anything else.
    Other,
}

/// Returns the name of the function that is called.
pub(crate) fn entry(guest: &Guest) -> &str {
    guest.function.as_deref().unwrap_or(entry_point(WasmKind::Module))
}

/// Returns the name of the function that is called before, if there is one of that name. A command sets itself up in its entry
/// point; only a library has a function for it.
pub(crate) fn initializer(guest: &Guest) -> Option<&'static str> {
    const NAME: &str = "_initialize";
    guest.function.as_deref().filter(|function| *function != NAME).map(|_| NAME)
}

/// Checks that the function can be called; `find` finds an export by its name.
///
/// # Errors
/// [`RunError::NoSuchFunction`] says what is there instead.
pub(crate) fn check(guest: &Guest, find: impl FnOnce(&str) -> Option<Export>) -> Result<(), RunError> {
    let name = entry(guest);
    let reason = match find(name) {
        Some(Export::Function { parameters: 0 }) => return Ok(()),
        Some(Export::Function { .. }) => "it wants parameters",
        Some(Export::Other) => "it is no function",
        None => "there is none of that name",
    };
    Err(RunError::NoSuchFunction { function: name.to_owned(), reason: reason.to_owned() })
}
