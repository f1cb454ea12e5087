//! A failed job: a kind for the client's program, and a text for its user.

use std::error::Error;

use prewasi_precompiler::chain;
use serde::{Deserialize, Serialize};

/// The kind of a failure, as finely as a client must distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// The request, the image or the spec is wrong.
    Invalid,
    /// The requested object does not exist, or no longer exists.
    NotFound,
    /// An object of that name exists already.
    Exists,
    /// The container's state does not permit the operation.
    State,
    /// The client cancelled the operation.
    GivenUp,
    /// The shim does not implement the operation.
    Unsupported,
    /// containerd or the node does not respond at present.
    Unavailable,
    /// Something else went wrong.
    Internal,
}

/// The reason why a helper process failed; it crosses the process boundary as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// For the client's program.
    pub(crate) kind: Kind,
    /// For the user: the chain of reasons.
    pub(crate) message: String,
}

impl Failure {
    /// Makes the failure of an operation that was stopped on request.
    pub(crate) fn given_up() -> Self {
        Self { kind: Kind::GivenUp, message: "it was stopped before it was done".to_owned() }
    }

    /// Converts an error with its whole chain of reasons.
    pub(crate) fn new(kind: Kind, error: &dyn Error) -> Self {
        Self { kind, message: chain(error) }
    }
}
