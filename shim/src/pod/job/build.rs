//! The common part of creating a container and executing another process in one: the builder, the streams, the errors.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::syscall::syscall::SyscallType;
use prewasi_precompiler::chain;
use rustix::fs::{FileType, Gid, Uid, fchown, fstat};

use super::mask::MaskError;
use super::payload::{Payload, PayloadError};
use super::root::RootError;
use super::stage::StageError;
use crate::failure::{Failure, Kind};
use crate::node::cgroup::ClaimError;
use crate::node::mounts::MountError;
use crate::pod::launch::{AttributeError, Attributes, Confinement, NativeExecutor, WasmExecutor};
use crate::pod::options::{ContainerOptionsError, Runc};
use crate::pod::spec::{self, SpecError, adapt};
use crate::pod::stdio::{StreamError, Streams};

/// The reason why a process of a container cannot be made.
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
    Payload(Box<PayloadError>),
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
    #[error("cannot pass on the process's descriptors")]
    Process(#[source] io::Error),
    #[error("cannot join the user namespace of the container")]
    UserNamespace(#[source] io::Error),
    #[error("cannot execute a process under a seccomp filter with a listener: this shim does not support it")]
    SeccompNotify,
    #[error("cannot build the {what}: {reason}")]
    Build { what: &'static str, reason: String },
    #[error(
        "cannot build the container: its spec has no mount on /proc, which each container needs; add a mount of type proc"
    )]
    NoProc,
    #[error("cannot use working directory {path:?}: it must be an absolute path")]
    RelativeCwd { path: std::path::PathBuf },
    #[error("cannot close the folders of devices in /dev")]
    Devices(#[source] io::Error),
    #[error("cannot store the state of the container: {0}")]
    State(String),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Mask(#[from] MaskError),
    #[error("cannot find the init process of the container")]
    Init(#[source] io::Error),
    #[error("container {id} exists already: its process {pid} runs")]
    Exists { id: String, pid: i32 },
    #[error("cannot remove the remains of an earlier container {id}")]
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
    #[error("cannot read which capabilities the kernel knows")]
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
            Self::Stage(error) if error.is_input() => Kind::Invalid,
            Self::Hook { .. } | Self::Root(RootError::NoFolder { .. }) | Self::NoProc | Self::RelativeCwd { .. } => {
                Kind::Invalid
            }
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
            | Self::State(_)
            | Self::Devices(_)
            | Self::Stage(_)
            | Self::Mask(_)
            | Self::Claim(_)
            | Self::Capabilities(_)
            | Self::Init(_) => Kind::Internal,
        }
    }
}

impl From<PayloadError> for BuildError {
    fn from(error: PayloadError) -> Self {
        Self::Payload(Box::new(error))
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self::new(error.kind(), &error)
    }
}

impl Payload {
    /// Returns the kind of the program: wasm or native.
    pub(super) fn kind(&self) -> adapt::Kind {
        match self {
            Self::Wasm(_) => adapt::Kind::Wasm,
            Self::Native(_) => adapt::Kind::Native,
        }
    }
}

/// Makes a builder for a container whose state lies below `root`, with its streams and its program.
pub(super) fn builder(
    id: &str,
    root: &Path,
    streams: &Streams,
    spec: &Spec,
    payload: Payload,
    confinement: Option<Confinement>,
    runc: &Runc,
) -> Result<ContainerBuilder, BuildError> {
    let guest = match &payload {
        Payload::Wasm(wasm) => Some(&wasm.guest),
        Payload::Native(_) => None,
    };
    let attributes = Attributes::prepare(id, spec, guest, !runc.no_new_keyring)?;
    let failed = |error| BuildError::State(chain(&error));
    let mut builder =
        ContainerBuilder::new(id.to_owned(), SyscallType::default()).with_root_path(root).map_err(failed)?;
    match streams {
        Streams::Console(socket) => builder = builder.with_console_socket(Some(socket)),
        Streams::Each(stdio) => {
            let streams = stdio.open().map_err(BuildError::Stdio)?;
            own_streams(&streams, spec, payload.kind(), runc.owner);
            let [stdin, stdout, stderr] = streams;
            builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
        }
    }
    Ok(match payload {
        Payload::Wasm(wasm) => builder.with_executor(WasmExecutor::new(*wasm, confinement, attributes)),
        Payload::Native(variables) => builder.with_executor(NativeExecutor::new(confinement, variables, attributes)),
    })
}

/// Gives the streams to the owner that the client names. Also lets a native program that does not run as the node's root open its own
/// streams again, for example by `/dev/stdout`.
fn own_streams(streams: &[OwnedFd; 3], spec: &Spec, kind: adapt::Kind, owner: (Option<u32>, Option<u32>)) {
    let own = spec::user_on_node(spec).filter(|uid| *uid != 0 && kind == adapt::Kind::Native);
    let (uid, gid) = (own.or(owner.0), owner.1);
    if (uid, gid) == (None, None) {
        return;
    }
    for stream in streams {
        let is_fifo = fstat(stream).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
        let given = || fchown(stream, uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        if is_fifo && let Err(error) = given() {
            tracing::warn!(%error, ?uid, ?gid, "cannot give a standard stream to the container's user");
        }
    }
}

/// Refuses a working directory that is not an absolute path, as runc does.
pub(super) fn check_cwd(process: Option<&Process>) -> Result<(), BuildError> {
    let cwd = process.map(|process| process.cwd().clone()).unwrap_or_default();
    let is_relative = cwd.is_relative() && !cwd.as_os_str().is_empty();
    if is_relative { Err(BuildError::RelativeCwd { path: cwd }) } else { Ok(()) }
}
