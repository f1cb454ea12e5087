//! The reasons why a request has no answer from the guest.

use super::super::failure::outcome;
use crate::RunError;

/// The reason why a guest has not answered.
pub(super) enum Unanswered {
    /// The request cannot be passed to a guest.
    Bad,
    /// The guest exceeded its time limit.
    Late,
    /// An error in the guest, or before it ran.
    Failed(wasmtime::Error),
}

/// Returns the reason of a guest's failure.
pub(super) fn reason(error: &wasmtime::Error) -> String {
    match outcome(error) {
        Ok(code) => format!("the guest exited with {code} instead of answering"),
        Err(RunError::Setup { reason }) => reason,
        Err(error) => error.to_string(),
    }
}
