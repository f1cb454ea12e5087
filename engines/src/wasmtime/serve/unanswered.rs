//! Why there is no answer.

use super::super::failure::outcome;
use crate::RunError;

/// Why a guest has not answered.
pub(super) enum Unanswered {
    /// The request cannot be shown to a guest.
    Bad,
    /// The guest takes too long.
    Late,
    /// Something went wrong in the guest, or before it.
    Failed(wasmtime::Error),
}

/// Says why a guest has failed.
pub(super) fn reason(error: &wasmtime::Error) -> String {
    match outcome(error) {
        Ok(code) => format!("the guest exited with {code} instead of answering"),
        Err(RunError::Setup { reason }) => reason,
        Err(error) => error.to_string(),
    }
}
