//! How what is done for a call fails: a kind for the client's program, and a text for its user.

use std::error::Error;

use prewasi_precompiler::chain;
use serde::{Deserialize, Serialize};

/// Why a call fails, as far as a client must be able to tell cases apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// The request, the image or the spec is wrong.
    Invalid,
    /// What is asked for is not there, or no more.
    NotFound,
    /// There already is one.
    Exists,
    /// Not possible in the state that the container is in.
    State,
    /// Whoever asked for it wants it no more.
    GivenUp,
    /// The shim does not do that.
    Unsupported,
    /// containerd or the node does not answer now.
    Unavailable,
    /// Something else went wrong.
    Internal,
}

/// Says why a helper process did not do its job; it crosses the process boundary as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// For the client's program.
    pub(crate) kind: Kind,
    /// For the user: the chain of reasons.
    pub(crate) message: String,
}

impl Failure {
    /// Makes the failure of what was stopped on request.
    pub(crate) fn given_up() -> Self {
        Self { kind: Kind::GivenUp, message: "it was stopped before it was done".to_owned() }
    }

    /// Takes an error with all its reasons.
    pub(crate) fn new(kind: Kind, error: &dyn Error) -> Self {
        Self { kind, message: chain(error) }
    }
}
