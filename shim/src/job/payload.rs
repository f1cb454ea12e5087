//! Finds and prepares what a process of a container runs: wasm of its image, wasm in a file, or a native program.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;
use prewasi_engines::{Engine, Machine, Program, RunError};
use prewasi_precompiler::{
    ContainerRecord, Content, Image, Options, OptionsError, Precompiler, PrepareError, Settings,
};

use super::data::{self, DataError};
use super::stop_signal;
use crate::command::EngineConstructor;
use crate::entrypoint::{self, Entrypoint};
use crate::error::Kind;
use crate::executor::Wasm;
use crate::seal::seal;
use crate::spec;
use crate::trace::Origin;

/// The first bytes of wasm in binary form.
const MAGIC: &[u8] = b"\0asm";
/// What log lines have as the engine of programs that need none.
const NATIVE: &str = "native";

/// What a process runs.
pub(super) enum Payload {
    Wasm(Box<Wasm>),
    /// Further variables for the program.
    Native(Vec<(String, String)>),
}

/// Where programs of a container are looked for.
pub(super) struct Search<'a> {
    /// Id of the container.
    pub(super) id: &'a str,
    /// containerd's gRPC socket.
    pub(super) address: &'a Path,
    pub(super) namespace: &'a str,
    /// The root filesystem, as far as it can be seen from here.
    pub(super) root: PathBuf,
    /// The container's bundle.
    pub(super) bundle: &'a Path,
    /// The program that the container runs already, if it is to run another. An image's only wasm is what the container
    /// runs, whatever its entrypoint is called; everything else must be asked for by a name that it has.
    pub(super) own: Option<String>,
    /// The trace that the program is told of.
    pub(super) origin: Option<&'a Origin>,
}

/// Says why a program cannot be found or prepared.
#[derive(Debug, thiserror::Error)]
pub(super) enum PayloadError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("cannot find entrypoint {program:?} in the root filesystem of the container")]
    NoEntrypoint { program: String },
    #[error("cannot find {program:?}: the container has no such file, and image {image} has only {programs}")]
    NoProgram { program: String, image: String, programs: String },
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
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error(transparent)]
    Data(#[from] DataError),
}

/// A program that has been loaded.
struct Loaded {
    /// What it is called in messages.
    subject: String,
    program: Box<dyn Program>,
    /// The container's options, with those of its image.
    options: Options,
    /// The signal that stops the container.
    stop_signal: Option<i32>,
}

impl PayloadError {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Prepare(error) if error.is_input() => Kind::Invalid,
            Self::Prepare(PrepareError::Store(_)) => Kind::Unavailable,
            Self::NoEntrypoint { .. } | Self::NoProgram { .. } | Self::Check { .. } => Kind::Invalid,
            Self::Options(_) => Kind::Invalid,
            Self::Data(error) if error.is_input() => Kind::Invalid,
            Self::Data(_) => Kind::Internal,
            Self::Prepare(_) | Self::Entrypoint { .. } | Self::Runtime(_) => Kind::Internal,
        }
    }
}

impl Search<'_> {
    /// Prepares what the process of `spec` runs. The runtime that talks to containerd is gone when this returns, with its
    /// threads: libcontainer is about to fork.
    pub(super) fn payload(
        &self,
        spec: &Spec,
        options: &Options,
        engine: EngineConstructor,
    ) -> Result<Payload, PayloadError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PayloadError::Runtime)?;
        let before = open_descriptors();
        let entrypoint = Entrypoint::parse(spec::args(spec).first().map_or("", String::as_str));
        let loaded = runtime.block_on(async {
            match &self.own {
                None => self.load_entrypoint(spec, options, &entrypoint, engine).await,
                Some(own) => self.load_other(own, spec, options, &entrypoint, engine).await,
            }
        })?;
        drop(runtime);
        let variables = self.variables(spec);
        let Some(Loaded { subject, program, options, stop_signal }) = loaded else {
            tracing::Span::current().record("engine", NATIVE);
            return Ok(Payload::Native(variables));
        };
        tracing::debug!(subject, "program prepared");
        let mut guest = spec::guest(spec, &entrypoint, &options);
        options.limit(&mut guest)?;
        guest.env.extend(variables);
        program.check(&guest).map_err(|source| PayloadError::Check { subject, source })?;
        let kept: Vec<RawFd> = open_descriptors().into_iter().filter(|fd| !before.contains(fd)).collect();
        if let Err(error) = seal(&kept) {
            tracing::warn!(%error, "cannot protect native code from its container: the kernel is too old");
        }
        Ok(Payload::Wasm(Box::new(Wasm {
            program: program.into(),
            guest,
            kept,
            timeout: options.timeout,
            stop_signal,
        })))
    }

    /// Returns the variables that tell of the trace, without those that the container has of its own.
    fn variables(&self, spec: &Spec) -> Vec<(String, String)> {
        let variables = self.origin.map(|origin| origin.container.variables()).unwrap_or_default();
        let own = spec::env(spec);
        variables.into_iter().filter(|(name, _)| !own.iter().any(|(known, _)| known == name)).collect()
    }

    /// Loads what the container runs: the wasm of the image, or the wasm file that the entrypoint names. What the image has
    /// beside its program is mounted in the root filesystem.
    async fn load_entrypoint(
        &self,
        spec: &Spec,
        options: &Options,
        entrypoint: &Entrypoint,
        engine: EngineConstructor,
    ) -> Result<Option<Loaded>, PayloadError> {
        let (precompiler, record) = self.record(options).await?;
        let image = match &record.image {
            Some(name) => Some(precompiler.resolve(name).await.map_err(PrepareError::Image)?),
            None => None,
        };
        let (engine, options) = tuned(engine, spec, options, image.as_ref())?;
        let stop_signal = stop_signal::of_container(&record, image.as_ref());
        if let Some(image) = &image {
            data::mount_all(&precompiler, image, spec, &self.root, self.bundle).await?;
            if let Some(program) = precompiler.load(image, Some(&entrypoint.program), &*engine).await? {
                return Ok(Some(Loaded { subject: format!("image {}", image.name), program, options, stop_signal }));
            }
        }
        match self.file(spec, entrypoint)? {
            Some(file) if is_wasm(entrypoint, &file)? => {
                let program = precompiler.load_file(image.as_ref(), &entrypoint.program, file, &*engine).await?;
                let subject = entrypoint.program.clone();
                Ok(program.map(|program| Loaded { subject, program, options, stop_signal }))
            }
            None if entrypoint.is_named_wasm() => {
                Err(PayloadError::NoEntrypoint { program: entrypoint.program.clone() })
            }
            // It may lie on a volume; libcontainer looks again when all is mounted.
            _ => Ok(None),
        }
    }

    /// Loads what else a container can run: a wasm file, or wasm of its image by the entrypoint or title that it has there.
    /// containerd is not asked for what is a native file.
    async fn load_other(
        &self,
        own: &str,
        spec: &Spec,
        options: &Options,
        entrypoint: &Entrypoint,
        engine: EngineConstructor,
    ) -> Result<Option<Loaded>, PayloadError> {
        let file = self.file(spec, entrypoint)?;
        if let Some(file) = &file
            && !is_wasm(entrypoint, file)?
        {
            return Ok(None);
        }
        let program = entrypoint.program.clone();
        let (precompiler, record) = self.record(options).await?;
        let image = match &record.image {
            Some(name) => match precompiler.resolve(name).await {
                Ok(image) => Some(image),
                // A file is there although its image may be gone.
                Err(_) if file.is_some() => None,
                Err(error) => return Err(PrepareError::Image(error).into()),
            },
            None => None,
        };
        let (engine, options) = tuned(engine, spec, options, image.as_ref())?;
        let stop_signal = stop_signal::of_container(&record, image.as_ref());
        if let Some(file) = file {
            let loaded = precompiler.load_file(image.as_ref(), &program, file, &*engine).await?;
            return Ok(loaded.map(|loaded| Loaded { subject: program, program: loaded, options, stop_signal }));
        }
        match image {
            Some(image) if matches!(image.content, Content::Wasm(_)) => {
                let Content::Wasm(layers) = &image.content else { return Ok(None) };
                let titles: Vec<&str> = layers.iter().filter_map(|layer| layer.title.as_deref()).collect();
                if program != own && !titles.contains(&program.trim_start_matches('/')) {
                    let programs = [&[own], &*titles].concat().join(", ");
                    return Err(PayloadError::NoProgram { program, image: image.name.clone(), programs });
                }
                let loaded = precompiler.load(&image, Some(&program), &*engine).await?;
                let subject = format!("image {}", image.name);
                Ok(loaded.map(|program| Loaded { subject, program, options, stop_signal }))
            }
            _ if entrypoint.is_named_wasm() => Err(PayloadError::NoEntrypoint { program }),
            _ => Ok(None),
        }
    }

    async fn record(&self, options: &Options) -> Result<(Precompiler, ContainerRecord), PayloadError> {
        let mut settings = Settings::new(self.address, self.namespace);
        options.apply(&mut settings);
        let precompiler = Precompiler::connect(settings).await?;
        let record = precompiler.container(self.id).await?;
        Ok((precompiler, record))
    }

    /// Opens the file that the entrypoint names.
    fn file(&self, spec: &Spec, entrypoint: &Entrypoint) -> Result<Option<fs::File>, PayloadError> {
        let env = spec::env(spec);
        let search =
            env.iter().rfind(|(name, _)| name == "PATH").map_or(spec::DEFAULT_PATH, |(_, value)| value.as_str());
        entrypoint
            .open(&self.root, &spec::cwd(spec), search)
            .map_err(|source| PayloadError::Entrypoint { program: entrypoint.program.clone(), source })
    }
}

/// Makes the engine that the options of the container and its image ask for, and puts these together.
fn tuned(
    engine: EngineConstructor,
    spec: &Spec,
    options: &Options,
    image: Option<&Image>,
) -> Result<(Box<dyn Engine>, Options), PrepareError> {
    let tuned = options.tuned(&*engine(), image, Machine::default(), spec::memory_limit(spec))?;
    tracing::Span::current().record("engine", tuned.0.name());
    Ok(tuned)
}

/// Says whether a file is wasm, by its name or its first bytes.
fn is_wasm(entrypoint: &Entrypoint, file: &fs::File) -> Result<bool, PayloadError> {
    let failed = |source| PayloadError::Entrypoint { program: entrypoint.program.clone(), source };
    Ok(entrypoint.is_named_wasm() || entrypoint::starts_with(file, MAGIC).map_err(failed)?)
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
