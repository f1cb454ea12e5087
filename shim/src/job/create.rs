//! Creates a container: mounts its root filesystem, prepares its program, builds it.
//!
//! Nothing is undone here: whatever a failed or killed creation leaves is taken away by a [`super::Remove`] job, which
//! the daemon starts in either case.

use std::fs;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use prewasi_engines::{Guest, Program, RunError};
use prewasi_precompiler::{Precompiler, PrepareError, Settings};

use super::seal::seal;
use crate::cgroup::Cgroup;
use crate::command::EngineConstructor;
use crate::entrypoint::{self, Entrypoint};
use crate::error::{Failure, Kind, chain};
use crate::executor::{NativeExecutor, WasmExecutor};
use crate::helper::Report;
use crate::mounts::{self, Mount, MountError};
use crate::process::ProcessId;
use crate::spec::{self, SpecError};
use crate::stdio::Stdio;

/// The first bytes of wasm in binary form.
const MAGIC: &[u8] = b"\0asm";

/// Mount the root filesystem, prepare the program, build the container around it.
#[derive(Debug)]
pub(crate) struct Create {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// libcontainer's folder for containers.
    pub(crate) containers: PathBuf,
    pub(crate) rootfs: Vec<Mount>,
    pub(crate) stdio: Stdio,
    /// containerd's gRPC socket.
    pub(crate) address: PathBuf,
    pub(crate) namespace: String,
}

/// Says why a container cannot be created.
#[derive(Debug, thiserror::Error)]
enum CreateError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("cannot find entrypoint {program:?} in the root filesystem of the container")]
    NoEntrypoint { program: String },
    #[error("cannot read entrypoint {program:?}")]
    Entrypoint {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot run {subject}")]
    Check {
        subject: String,
        #[source]
        source: RunError,
    },
    #[error("cannot set up a runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot open the standard streams")]
    Stdio(#[source] io::Error),
    #[error("cannot build the container: {reason}")]
    Build { reason: String },
    #[error("cannot find the init process of the container")]
    Init(#[source] io::Error),
}

/// What a container runs.
enum Payload {
    Wasm { program: Arc<dyn Program>, guest: Guest, kept: Vec<RawFd> },
    Native,
}

impl Create {
    /// Creates the container and reports its init process.
    pub(super) fn run(&self, engine: EngineConstructor) -> Result<Report, Failure> {
        self.create(engine).map_err(|error| Failure::new(error.kind(), &error))
    }

    fn create(&self, engine: EngineConstructor) -> Result<Report, CreateError> {
        let spec = spec::load(&self.bundle)?;
        mounts::mount_all(&self.rootfs, &self.bundle.join("rootfs"))?;
        let payload = self.payload(&spec, engine)?;
        let streams = self.stdio.open().map_err(CreateError::Stdio)?;
        if let Payload::Native = payload {
            own_streams(&streams, &spec);
        }
        let pid = self.build(&spec, payload, streams)?;
        let id = ProcessId::of(pid).map_err(CreateError::Init)?;
        let cgroup = Cgroup::of_process(pid).map_err(CreateError::Init)?;
        Ok(Report::Process { id, cgroup })
    }

    /// Prepares what the container runs. The runtime that talks to containerd is gone when this returns, with its threads:
    /// libcontainer is about to fork.
    fn payload(&self, spec: &Spec, engine: EngineConstructor) -> Result<Payload, CreateError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CreateError::Runtime)?;
        let before = open_descriptors();
        let entrypoint = Entrypoint::parse(spec::args(spec).first().map_or("", String::as_str));
        let loaded = runtime.block_on(self.load(spec, &entrypoint, engine))?;
        drop(runtime);
        let Some((subject, program)) = loaded else { return Ok(Payload::Native) };
        let guest = spec::guest(spec, &entrypoint);
        program.check(&guest).map_err(|source| CreateError::Check { subject, source })?;
        let kept: Vec<RawFd> = open_descriptors().into_iter().filter(|fd| !before.contains(fd)).collect();
        if let Err(error) = seal(&kept) {
            tracing::warn!(%error, id = self.id, "cannot protect native code from its container: the kernel is too old");
        }
        Ok(Payload::Wasm { program: program.into(), guest, kept })
    }

    /// Loads the wasm of the image, or the wasm file that the entrypoint names; `None` if it is neither.
    async fn load(
        &self,
        spec: &Spec,
        entrypoint: &Entrypoint,
        engine: EngineConstructor,
    ) -> Result<Option<(String, Box<dyn Program>)>, CreateError> {
        let precompiler = Precompiler::connect(Settings::new(&self.address, &self.namespace)).await?;
        let image = precompiler.image_of_container(&self.id).await?;
        let engine = engine();
        if let Some(image) = &image
            && let Some(program) = precompiler.load(image, Some(&entrypoint.program), &*engine).await?
        {
            return Ok(Some((format!("image {image}"), program)));
        }
        let Some(file) = self.wasm_file(spec, entrypoint)? else { return Ok(None) };
        let program = precompiler.load_file(image.as_deref(), &entrypoint.program, file, &*engine).await?;
        Ok(program.map(|program| (entrypoint.program.clone(), program)))
    }

    /// Opens the file that the entrypoint names if its name or its first bytes say that it is wasm.
    fn wasm_file(&self, spec: &Spec, entrypoint: &Entrypoint) -> Result<Option<fs::File>, CreateError> {
        let failed = |source| CreateError::Entrypoint { program: entrypoint.program.clone(), source };
        let env = spec::env(spec);
        let search =
            env.iter().rfind(|(name, _)| name == "PATH").map_or(spec::DEFAULT_PATH, |(_, value)| value.as_str());
        let root = spec::root(spec, &self.bundle);
        match entrypoint.open(&root, &spec::cwd(spec), search).map_err(failed)? {
            Some(file) if entrypoint.is_named_wasm() => Ok(Some(file)),
            Some(file) => Ok(entrypoint::starts_with(&file, MAGIC).map_err(failed)?.then_some(file)),
            None if entrypoint.is_named_wasm() => {
                Err(CreateError::NoEntrypoint { program: entrypoint.program.clone() })
            }
            // It may lie on a volume; libcontainer looks again when all is mounted.
            None => Ok(None),
        }
    }

    fn build(&self, spec: &Spec, payload: Payload, streams: [OwnedFd; 3]) -> Result<i32, CreateError> {
        let [stdin, stdout, stderr] = streams;
        let builder = ContainerBuilder::new(self.id.clone(), SyscallType::default())
            .with_root_path(&self.containers)
            .map_err(build_error)?
            .with_stdin(stdin)
            .with_stdout(stdout)
            .with_stderr(stderr);
        let builder = match payload {
            Payload::Wasm { program, guest, kept } => builder.with_executor(WasmExecutor::new(program, guest, kept)),
            Payload::Native => builder.with_executor(NativeExecutor),
        };
        let container = builder
            .as_init(&self.bundle)
            .with_systemd(spec::has_systemd_cgroup(spec))
            .as_sibling(true)
            .build()
            .map_err(build_error)?;
        let pid = container.pid().map(|pid| pid.as_raw());
        pid.ok_or_else(|| CreateError::Init(io::Error::other("libcontainer did not name it")))
    }
}

impl CreateError {
    fn kind(&self) -> Kind {
        match self {
            Self::Prepare(error) if error.is_input() => Kind::Invalid,
            Self::Prepare(PrepareError::Store(_)) => Kind::Unavailable,
            Self::NoEntrypoint { .. } | Self::Check { .. } => Kind::Invalid,
            Self::Spec(_)
            | Self::Mount(_)
            | Self::Prepare(_)
            | Self::Entrypoint { .. }
            | Self::Runtime(_)
            | Self::Stdio(_)
            | Self::Build { .. }
            | Self::Init(_) => Kind::Internal,
        }
    }
}

/// Takes off what libcontainer's processes put before a reason as they hand it on to each other.
fn build_error(error: LibcontainerError) -> CreateError {
    const HANDED_ON: [&str; 4] = [
        "failed to create container: ",
        "exec process failed with error ",
        "error in executing process : ",
        "intermediate process error ",
    ];
    let text = chain(&error);
    let mut reason = text.as_str();
    while let Some(rest) = HANDED_ON.iter().find_map(|before| reason.strip_prefix(before)) {
        reason = rest;
    }
    CreateError::Build { reason: reason.to_owned() }
}

/// Lets a program that does not run as root open its own streams again, by `/dev/stdout` for example.
fn own_streams(streams: &[OwnedFd; 3], spec: &Spec) {
    let uid = spec.process().as_ref().map_or(0, |process| process.user().uid());
    for stream in streams.iter().filter(|_| uid != 0) {
        let is_fifo = rustix::fs::fstat(stream)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo);
        if is_fifo && let Err(error) = rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(uid)), None) {
            tracing::warn!(%error, uid, "cannot give a standard stream to the container's user");
        }
    }
}

/// Lists the numbers of this process's descriptors.
fn open_descriptors() -> Vec<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let mut listed: Vec<RawFd> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The folder itself was open while it was read.
    listed.retain(|fd| fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok());
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The user reads the reason, not the way it took through libcontainer's processes.
    #[test]
    fn reasons_are_plain() {
        let text = "exec process failed with error error in executing process : cannot execute \"/x\"";
        let CreateError::Build { reason } = build_error(LibcontainerError::Other(text.to_owned())) else {
            panic!("another error")
        };
        assert_eq!(reason, "cannot execute \"/x\"");
    }
}
