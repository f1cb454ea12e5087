//! What creating a container and executing another process in one have in common: the builder, the streams, the errors.

use std::io;
use std::path::Path;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;

use super::payload::{Payload, PayloadError};
use super::root::RootError;
use crate::cgroup::ClaimError;
use crate::error::{Failure, Kind, chain};
use crate::executor::{AttributeError, Attributes, Confinement, NativeExecutor, WasmExecutor};
use crate::mounts::MountError;
use crate::options::ContainerOptionsError;
use crate::spec::{SpecError, adapt};
use crate::stdio::{StreamError, Streams};

/// Says why a process of a container cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Options(#[from] ContainerOptionsError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error(transparent)]
    Attributes(#[from] AttributeError),
    #[error("cannot use a standard stream")]
    Stdio(#[source] StreamError),
    #[error("cannot prepare {}", path.display())]
    Folder {
        path: std::path::PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot hand over the process")]
    Process(#[source] io::Error),
    #[error("cannot join the user namespace of the container")]
    UserNamespace(#[source] io::Error),
    #[error("cannot execute a process under a seccomp filter that asks a listener: this shim does not support it")]
    SeccompNotify,
    #[error("cannot build the {what}: {reason}")]
    Build { what: &'static str, reason: String },
    #[error("cannot find the init process of the container")]
    Init(#[source] io::Error),
    #[error("container {id} is there already: process {pid} of it runs")]
    Exists { id: String, pid: i32 },
    #[error("cannot take away what an earlier container {id} has left")]
    Stale {
        id: String,
        #[source]
        source: Failure,
    },
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("cannot run hook {}", path.display())]
    Hook {
        path: std::path::PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot find out which capabilities a process can have")]
    Capabilities(#[source] io::Error),
}

impl BuildError {
    fn kind(&self) -> Kind {
        match self {
            Self::Payload(error) => error.kind(),
            Self::Options(_) | Self::Attributes(AttributeError::Label(_)) => Kind::Invalid,
            Self::SeccompNotify => Kind::Unsupported,
            Self::Exists { .. } => Kind::Exists,
            Self::Claim(error) if error.is_input() => Kind::Invalid,
            Self::Hook { .. } | Self::Root(RootError::NoFolder { .. }) => Kind::Invalid,
            Self::Spec(_)
            | Self::Mount(_)
            | Self::Attributes(_)
            | Self::Root(RootError::Look { .. })
            | Self::Stdio(_)
            | Self::Folder { .. }
            | Self::Process(_)
            | Self::UserNamespace(_)
            | Self::Build { .. }
            | Self::Stale { .. }
            | Self::Claim(_)
            | Self::Capabilities(_)
            | Self::Init(_) => Kind::Internal,
        }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self::new(error.kind(), &error)
    }
}

impl Payload {
    /// Returns what kind of program it is.
    pub(super) fn kind(&self) -> adapt::Kind {
        match self {
            Self::Wasm(_) => adapt::Kind::Wasm,
            Self::Native(_) => adapt::Kind::Native,
        }
    }
}

/// Makes a builder for a container whose state lies below `root`, with streams and what is to run.
pub(super) fn builder(
    id: &str,
    root: &Path,
    streams: &Streams,
    spec: &Spec,
    payload: Payload,
    confinement: Option<Confinement>,
) -> Result<ContainerBuilder, BuildError> {
    let guest = match &payload {
        Payload::Wasm(wasm) => Some(&wasm.guest),
        Payload::Native(_) => None,
    };
    let attributes = Attributes::prepare(id, spec, guest)?;
    let failed = |error| build_error("container", &error);
    let mut builder =
        ContainerBuilder::new(id.to_owned(), SyscallType::default()).with_root_path(root).map_err(failed)?;
    match streams {
        Streams::Console(socket) => builder = builder.with_console_socket(Some(socket)),
        Streams::Each(stdio) => {
            let streams = stdio.open().map_err(BuildError::Stdio)?;
            if let Payload::Native(_) = payload {
                own_streams(&streams, spec);
            }
            let [stdin, stdout, stderr] = streams;
            builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
        }
    }
    Ok(match payload {
        Payload::Wasm(wasm) => builder.with_executor(WasmExecutor::new(*wasm, confinement, attributes)),
        Payload::Native(variables) => builder.with_executor(NativeExecutor::new(confinement, variables, attributes)),
    })
}

/// Takes off what libcontainer's processes put before a reason as they hand it on to each other.
pub(super) fn build_error(what: &'static str, error: &LibcontainerError) -> BuildError {
    const HANDED_ON: [&str; 6] = [
        "failed to create container: ",
        "exec process failed with error ",
        "error in executing process : ",
        "intermediate process error ",
        "executor failed: ",
        "failed to execute workload: ",
    ];
    // What an executed process says comes in pieces of three bytes, the last one filled with zeros.
    let text = chain(error).replace('\0', "");
    let mut reason = text.as_str();
    while let Some(rest) = HANDED_ON.iter().find_map(|before| reason.strip_prefix(before)) {
        reason = rest;
    }
    BuildError::Build { what, reason: reason.to_owned() }
}

/// Lets a program that does not run as root open its own streams again, by `/dev/stdout` for example.
fn own_streams(streams: &[std::os::fd::OwnedFd; 3], spec: &Spec) {
    let uid = spec.process().as_ref().map_or(0, |process| process.user().uid());
    for stream in streams.iter().filter(|_| uid != 0) {
        let is_fifo = rustix::fs::fstat(stream)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo);
        if is_fifo && let Err(error) = rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(uid)), None) {
            tracing::warn!(%error, uid, "cannot give a standard stream to the container's user");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The user reads the reason, not the way it took through libcontainer's processes.
    #[test]
    fn reasons_are_plain() {
        let text = "exec process failed with error error in executing process : cannot execute \"/x\"\0\0";
        let error = build_error("process", &LibcontainerError::Other(text.to_owned()));
        assert_eq!(error.to_string(), "cannot build the process: cannot execute \"/x\"");
    }
}
