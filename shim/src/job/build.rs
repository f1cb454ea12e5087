//! What creating a container and executing another process in one have in common: the builder, the streams, the errors.

use std::io;
use std::path::Path;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;

use super::payload::{Payload, PayloadError};
use crate::error::{Failure, Kind, chain};
use crate::executor::{Confinement, NativeExecutor};
use crate::mounts::MountError;
use crate::options::ContainerOptionsError;
use crate::spec::SpecError;
use crate::stdio::Streams;

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
    Payload(#[from] PayloadError),
    #[error("cannot open the standard streams")]
    Stdio(#[source] io::Error),
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
}

impl BuildError {
    fn kind(&self) -> Kind {
        match self {
            Self::Payload(error) => error.kind(),
            Self::Options(_) => Kind::Invalid,
            Self::SeccompNotify => Kind::Unsupported,
            Self::Spec(_)
            | Self::Mount(_)
            | Self::Stdio(_)
            | Self::Folder { .. }
            | Self::Process(_)
            | Self::UserNamespace(_)
            | Self::Build { .. }
            | Self::Init(_) => Kind::Internal,
        }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self::new(error.kind(), &error)
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
        Payload::Wasm(executor) => builder.with_executor(executor.confined(confinement)),
        Payload::Native(variables) => builder.with_executor(NativeExecutor::new(confinement, variables)),
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
