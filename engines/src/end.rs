//! The end of a guest, the same for all engines: an exit code, or the reason why the guest has none.

use crate::RunError;

/// The end of a guest.
#[derive(Debug)]
pub(crate) enum End {
    /// The guest exited with a code, or returned: then the code is 0.
    Exited(u32),
    /// The guest trapped. The message has the trap, and the backtrace if the engine has one.
    Trapped(String),
    /// The guest never started, for a reason.
    NotStarted(String),
}

impl End {
    /// Returns the guest's exit code.
    ///
    /// # Errors
    /// [`RunError::Trap`] if the guest trapped; [`RunError::Setup`] if it never started.
    pub(crate) fn exit_code(self) -> Result<u8, RunError> {
        match self {
            // The system keeps eight bits of an exit code.
            Self::Exited(code) => Ok(code.to_le_bytes()[0]),
            Self::Trapped(message) => Err(RunError::Trap { message }),
            Self::NotStarted(reason) => Err(setup(reason)),
        }
    }
}

/// Makes the error of a guest that cannot be set up.
pub(crate) fn setup(reason: String) -> RunError {
    RunError::Setup { reason }
}
