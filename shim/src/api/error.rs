//! The answer of the task API to a failed call: a gRPC code, and the whole chain of reasons as text.
//!
//! A user of `ctr` or `kubectl describe` sees only this text, so it must be complete.

use prewasi_precompiler::{chain, one_line};
use ttrpc::proto::Code;

use crate::failure::{Failure, Kind};
use crate::node::cgroup::ClaimError;
use crate::pod::stdio::{ConsoleError, LoggerError, StreamError, UriError};

/// Returns the gRPC code of a failure, for the client's program.
fn code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::INVALID_ARGUMENT,
        Kind::NotFound => Code::NOT_FOUND,
        Kind::Exists => Code::ALREADY_EXISTS,
        Kind::State => Code::FAILED_PRECONDITION,
        Kind::GivenUp => Code::CANCELLED,
        Kind::Unsupported => Code::UNIMPLEMENTED,
        Kind::Unavailable => Code::UNAVAILABLE,
        Kind::Internal => Code::INTERNAL,
    }
}

/// The reason why a call of the task API fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    #[error("cannot find container {id}")]
    NoContainer { id: String },
    #[error("cannot read the figures of container {id}: it has no cgroup")]
    NoCgroup { id: String },
    #[error("cannot find process {exec_id} of container {id}")]
    NoProcess { id: String, exec_id: String },
    #[error("cannot use {id:?} as the id of a container")]
    Id { id: String },
    #[error("cannot create container {id}: it exists already")]
    Exists { id: String },
    #[error("cannot add process {exec_id} to container {id}: it exists already")]
    ExecExists { id: String, exec_id: String },
    #[error("cannot read the specification of process {exec_id} of container {id}")]
    ExecSpec {
        id: String,
        exec_id: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot read the new limits of container {id}")]
    Resources {
        id: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot change the limits of container {id}")]
    Limits {
        id: String,
        #[source]
        source: ClaimError,
    },
    #[error("cannot {action} process {exec_id} of container {id}: it is {state}")]
    ProcessState { action: &'static str, id: String, exec_id: String, state: &'static str },
    #[error("cannot resize the terminal of container {id}: its process has no terminal")]
    NoTerminal { id: String },
    #[error("cannot {action} container {id}: it is {state}")]
    State { action: &'static str, id: String, state: &'static str },
    #[error("cannot signal container {id}: its process has ended")]
    Ended { id: String },
    #[error("cannot signal process {exec_id} of container {id}: it has ended")]
    ProcessEnded { id: String, exec_id: String },
    #[error("cannot signal container {id} with {signal}: no such signal exists")]
    Signal { id: String, signal: u32 },
    #[error("cannot {what}: this shim does not support it")]
    Unsupported { what: &'static str },
    #[error("cannot {action} container {id}")]
    Failed {
        action: &'static str,
        id: String,
        #[source]
        source: Failure,
    },
    #[error("cannot execute process {exec_id} in container {id}")]
    Exec {
        id: String,
        exec_id: String,
        #[source]
        source: Failure,
    },
    #[error("cannot log the output of container {id}")]
    Logger {
        id: String,
        #[source]
        source: LoggerError,
    },
    #[error("cannot give container {id} a terminal")]
    Console {
        id: String,
        #[source]
        source: ConsoleError,
    },
    #[error("cannot use a stream of container {id}")]
    Stdio {
        id: String,
        #[source]
        source: StreamError,
    },
    #[error("cannot use a stream of container {id}")]
    StdioUri {
        id: String,
        #[source]
        source: UriError,
    },
    #[error("cannot {action} container {id}")]
    Io {
        action: &'static str,
        id: String,
        #[source]
        source: std::io::Error,
    },
}

impl TaskError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoContainer { .. } | Self::NoCgroup { .. } | Self::NoProcess { .. } => Kind::NotFound,
            Self::Ended { .. } | Self::ProcessEnded { .. } => Kind::NotFound,
            Self::Id { .. } | Self::Signal { .. } | Self::StdioUri { .. } | Self::ExecSpec { .. } => Kind::Invalid,
            Self::Logger { .. } | Self::Resources { .. } => Kind::Invalid,
            Self::Limits { source, .. } => {
                if source.is_input() {
                    Kind::Invalid
                } else {
                    Kind::Internal
                }
            }
            Self::Exists { .. } | Self::ExecExists { .. } => Kind::Exists,
            Self::State { .. } | Self::ProcessState { .. } | Self::NoTerminal { .. } => Kind::State,
            Self::Unsupported { .. } => Kind::Unsupported,
            Self::Failed { source, .. } | Self::Exec { source, .. } => source.kind,
            Self::Console { .. } | Self::Stdio { .. } | Self::Io { .. } => Kind::Internal,
        }
    }
}

impl From<TaskError> for ttrpc::Error {
    fn from(error: TaskError) -> Self {
        Self::RpcStatus(ttrpc::get_status(code(error.kind()), one_line(&chain(&error))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metrics of a container without a cgroup are answered with `NotFound`, as with runc's shim: clients skip such a container.
    #[test]
    fn no_cgroup_is_not_found() {
        let ttrpc::Error::RpcStatus(status) = (TaskError::NoCgroup { id: "a".to_owned() }).into() else {
            panic!("not a status")
        };
        assert_eq!(status.code(), Code::NOT_FOUND);
        assert_eq!(status.message, "cannot read the figures of container a: it has no cgroup");
    }

    /// The code of a helper's failure reaches the client unchanged, with any text.
    #[test]
    fn codes_are_kept() {
        let source = Failure { kind: Kind::Unavailable, message: "x".to_owned() };
        let error = TaskError::Failed { action: "create", id: "a".to_owned(), source };
        let ttrpc::Error::RpcStatus(status) = error.into() else { panic!("not a status") };
        assert_eq!(status.code(), Code::UNAVAILABLE);
        let id = "a\u{1b}[2J\nlevel=error".to_owned();
        let ttrpc::Error::RpcStatus(status) = (TaskError::NoContainer { id }).into() else { panic!("not a status") };
        assert_eq!(status.message, "cannot find container a\\u001b[2J\\nlevel=error");
        let ttrpc::Error::RpcStatus(status) = (TaskError::Unsupported { what: "checkpoint" }).into() else {
            panic!("not a status")
        };
        assert_eq!(status.code(), Code::UNIMPLEMENTED);
    }
}
