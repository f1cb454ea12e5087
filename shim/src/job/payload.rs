//! Finds and prepares what a process of a container runs: wasm of its image, wasm in a file, or a native program.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use libcontainer::oci_spec::runtime::Spec;
use prewasi_engines::{Engine, Machine, Program, RunError};
use prewasi_precompiler::{
    ContainerImage, Content, Digest, Image, ImageError, Options, OptionsError, Owner, Pin, Precompiler, PrepareError,
    Settings,
};

use super::data::{self, DataError};
use super::stop_signal;
use super::view::{Found, View};
use crate::command::EngineConstructor;
use crate::docker::{self, Noted};
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
    /// What the container's processes see.
    pub(super) view: View<'a>,
    /// The container's bundle.
    pub(super) bundle: &'a Path,
    /// The program that the container runs already, if it is to run another. An image's only wasm is what the container
    /// runs, whatever its entrypoint is called; everything else must be asked for by a name that it has.
    pub(super) own: Option<String>,
    /// The image that the container is known to run.
    pub(super) pin: Option<&'a Pin>,
    /// The trace that the program is told of.
    pub(super) origin: Option<&'a Origin>,
}

/// A process that can be made.
pub(super) struct Prepared {
    pub(super) payload: Payload,
    /// The image that its program belongs to, if containerd had to be asked for one.
    pub(super) pin: Option<Pin>,
    /// Whether the container's root filesystem has been mounted in its bundle, for files of the image to be mounted in it.
    pub(super) is_taken_over: bool,
}

/// Says why a program cannot be found or prepared.
#[derive(Debug, thiserror::Error)]
pub(super) enum PayloadError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(
        "cannot find entrypoint {program:?} in the root filesystem of the container{}{}",
        not_seen(unseen),
        if *has_image { "" } else { "; the container's record names no image, whose layers could have it" }
    )]
    NoEntrypoint {
        program: String,
        /// Whether it is known from which image the container was made.
        has_image: bool,
        /// Mounts in which it may lie, each with the reason why it cannot be looked into.
        unseen: Vec<String>,
    },
    #[error(
        "cannot run what the container was created with: that was {manifest} of image {image}, and a part of it has been removed \
         since; pull {image} again if its name still stands for that, else by this digest, or create the container anew"
    )]
    Gone {
        image: String,
        manifest: Digest,
        #[source]
        source: Box<ImageError>,
    },
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
    /// The image that it belongs to.
    pin: Option<Pin>,
    /// Whether the root filesystem has been mounted in the bundle.
    is_taken_over: bool,
}

/// The image of a container, and what else its record says.
#[derive(Default)]
struct Chosen {
    image: Option<Image>,
    pin: Option<Pin>,
    /// Whether the container is known to run this image, by an earlier note.
    is_noted: bool,
    stop_signal: Option<i32>,
    /// What the files of a container without an image of containerd's belong to.
    outside: String,
}

impl Chosen {
    /// Returns with what the native code of the container's files is kept.
    fn owner(&self) -> Owner<'_> {
        self.image.as_ref().map_or(Owner::Outside(&self.outside), Owner::Image)
    }
}

impl PayloadError {
    /// Says what is to be done if a part of the image is missing that the container is known to run.
    fn of_pinned(self, pin: Option<&Pin>) -> Self {
        match (self, pin) {
            (
                Self::Prepare(PrepareError::Image(source @ ImageError::MissingBlob { .. }))
                | Self::Data(DataError::Image(source @ ImageError::MissingBlob { .. })),
                Some(pin),
            ) => Self::Gone { image: pin.image.clone(), manifest: pin.manifest.clone(), source: Box::new(source) },
            (error, _) => error,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Prepare(error) if error.is_input() => Kind::Invalid,
            Self::Prepare(PrepareError::Store(_)) => Kind::Unavailable,
            Self::NoEntrypoint { .. } | Self::NoProgram { .. } | Self::Gone { .. } | Self::Check { .. } => {
                Kind::Invalid
            }
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
    ) -> Result<Prepared, PayloadError> {
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
        let Some(Loaded { subject, program, options, stop_signal, pin, is_taken_over }) = loaded else {
            tracing::Span::current().record("engine", NATIVE);
            return Ok(Prepared { payload: Payload::Native(variables), pin: None, is_taken_over: false });
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
        let timeout = options.timeout;
        let wasm = Wasm { program: program.into(), guest, kept, timeout, stop_signal };
        Ok(Prepared { payload: Payload::Wasm(Box::new(wasm)), pin, is_taken_over })
    }

    /// Returns the variables that tell of the trace, without those that the container has of its own.
    fn variables(&self, spec: &Spec) -> Vec<(String, String)> {
        let variables = self.origin.map(|origin| origin.container.variables()).unwrap_or_default();
        let own = spec::env(spec);
        variables.into_iter().filter(|(name, _)| !own.iter().any(|(known, _)| known == name)).collect()
    }

    /// Loads what the container runs: the wasm of the image, or the wasm file that the entrypoint names. What the image has
    /// beside its program is mounted in the root filesystem. containerd is not asked for what is a native file.
    async fn load_entrypoint(
        &self,
        spec: &Spec,
        options: &Options,
        entrypoint: &Entrypoint,
        engine: EngineConstructor,
    ) -> Result<Option<Loaded>, PayloadError> {
        let Found { file, unseen } = self.find(spec, entrypoint)?;
        if let Some(file) = &file
            && !is_wasm(entrypoint, file)?
        {
            return Ok(None);
        }
        let precompiler = self.precompiler(options).await?;
        let chosen = self.image(spec, &precompiler).await?;
        let Chosen { image, pin, is_noted, stop_signal, .. } = &chosen;
        let (stop_signal, is_noted) = (*stop_signal, *is_noted);
        let (engine, options) = tuned(engine, spec, options, image.as_ref())?;
        let load = async || -> Result<Option<Loaded>, PayloadError> {
            let mut is_taken_over = false;
            if let Some(image) = image {
                is_taken_over = data::mount_all(&precompiler, image, spec, self.view.root(), self.bundle).await?;
                if let Some(program) = precompiler.load(image, Some(&entrypoint.program), &*engine).await? {
                    let subject = format!("image {}", image.name);
                    return Ok(Some(Loaded {
                        subject,
                        program,
                        options,
                        stop_signal,
                        pin: pin.clone(),
                        is_taken_over,
                    }));
                }
            }
            let subject = entrypoint.program.clone();
            let Some(file) = file else {
                // It may be there when all is mounted; libcontainer looks again.
                return if entrypoint.is_named_wasm() {
                    Err(PayloadError::NoEntrypoint { program: subject, has_image: image.is_some(), unseen })
                } else {
                    Ok(None)
                };
            };
            let program = precompiler.load_file(chosen.owner(), &subject, file, &*engine).await?;
            let pin = pin.clone();
            Ok(program.map(|program| Loaded { subject, program, options, stop_signal, pin, is_taken_over }))
        };
        let loaded = load().await.map_err(|error| error.of_pinned(pin.as_ref().filter(|_| is_noted)))?;
        if let (Some(_), Some(pin), false) = (&loaded, &pin, is_noted)
            && let Err(error) = precompiler.pin(self.id, pin).await
        {
            // This task remembers it in any case.
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot note which image the container runs");
        }
        Ok(loaded)
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
        let Found { file, unseen } = self.find(spec, entrypoint)?;
        if let Some(file) = &file
            && !is_wasm(entrypoint, file)?
        {
            return Ok(None);
        }
        let program = entrypoint.program.clone();
        let precompiler = self.precompiler(options).await?;
        let chosen = match self.image(spec, &precompiler).await {
            // A file is there although its image may be gone.
            Err(_) if file.is_some() => Chosen::default(),
            chosen => chosen?,
        };
        let (engine, options) = tuned(engine, spec, options, chosen.image.as_ref())?;
        let is_taken_over = false;
        if let Some(file) = file {
            let loaded = precompiler.load_file(chosen.owner(), &program, file, &*engine).await?;
            let Chosen { pin, stop_signal, .. } = chosen;
            let loaded_as =
                |loaded| Loaded { subject: program, program: loaded, options, stop_signal, pin, is_taken_over };
            return Ok(loaded.map(loaded_as));
        }
        let Chosen { image, pin, is_noted, stop_signal, .. } = chosen;
        match image {
            Some(image) if matches!(image.content, Content::Wasm(_)) => {
                let Content::Wasm(layers) = &image.content else { return Ok(None) };
                let titles: Vec<&str> = layers.iter().filter_map(|layer| layer.title.as_deref()).collect();
                if program != own && !titles.contains(&program.trim_start_matches('/')) {
                    let programs = [&[own], &*titles].concat().join(", ");
                    return Err(PayloadError::NoProgram { program, image: image.name.clone(), programs });
                }
                let loaded = precompiler.load(&image, Some(&program), &*engine).await;
                let noted = pin.as_ref().filter(|_| is_noted);
                let loaded = loaded.map_err(|error| PayloadError::from(error).of_pinned(noted))?;
                let subject = format!("image {}", image.name);
                Ok(loaded.map(|program| Loaded { subject, program, options, stop_signal, pin, is_taken_over }))
            }
            image if entrypoint.is_named_wasm() => {
                Err(PayloadError::NoEntrypoint { program, has_image: image.is_some(), unseen })
            }
            _ => Ok(None),
        }
    }

    async fn precompiler(&self, options: &Options) -> Result<Precompiler, PayloadError> {
        let mut settings = Settings::new(self.address, self.namespace);
        options.apply(&mut settings);
        Ok(Precompiler::connect(settings).await?)
    }

    /// Reads the image that the container was made from, as it was then.
    async fn image(&self, spec: &Spec, precompiler: &Precompiler) -> Result<Chosen, PayloadError> {
        let record = precompiler.container(self.id).await?;
        let docker = docker::noted(self.id, spec);
        let known = match self.pin {
            Some(pin) => ContainerImage::Pinned(pin.clone()),
            None => ContainerImage::of(&record, self.id),
        };
        let (image, pin, is_noted) = match known {
            ContainerImage::None => {
                let image = self.image_of_docker(docker.as_ref(), precompiler).await?;
                let stop_signal = stop_signal::of_container(&record, docker.as_ref(), image.as_ref());
                let outside = docker.map(|docker| docker.id.to_string()).unwrap_or_default();
                return Ok(Chosen {
                    pin: image.as_ref().map(Pin::of),
                    image,
                    stop_signal,
                    outside,
                    ..Chosen::default()
                });
            }
            ContainerImage::Pinned(pin) => (precompiler.resolve_pinned(&pin).await, Some(pin), true),
            ContainerImage::Named(name) => (precompiler.resolve(&name).await, None, false),
        };
        let image = image.map_err(|error| PayloadError::from(PrepareError::Image(error)).of_pinned(pin.as_ref()))?;
        let pin = pin.unwrap_or_else(|| Pin::of(&image));
        let stop_signal = stop_signal::of_container(&record, docker.as_ref(), Some(&image));
        Ok(Chosen { image: Some(image), pin: Some(pin), is_noted, stop_signal, ..Chosen::default() })
    }

    /// Reads the image of which Docker has noted that the container runs it; `None` if containerd does not have it, because Docker has a
    /// store of its own.
    async fn image_of_docker(
        &self,
        docker: Option<&Noted>,
        precompiler: &Precompiler,
    ) -> Result<Option<Image>, PayloadError> {
        let Some(docker) = docker else { return Ok(None) };
        let record = precompiler.image_of_target(&docker.id, &docker.name).await.map_err(PrepareError::Image)?;
        let Some(mut record) = record else { return Ok(None) };
        if let Some(manifest) = docker.manifest.clone() {
            (record.target, record.media_type) = (manifest.digest, manifest.media_type);
        }
        Ok(Some(precompiler.resolve_record(&record).await.map_err(PrepareError::Image)?))
    }

    /// Opens the file that the entrypoint names.
    fn find(&self, spec: &Spec, entrypoint: &Entrypoint) -> Result<Found, PayloadError> {
        let env = spec::env(spec);
        let search =
            env.iter().rfind(|(name, _)| name == "PATH").map_or(spec::DEFAULT_PATH, |(_, value)| value.as_str());
        self.view
            .find(entrypoint, &spec::cwd(spec), search)
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

/// Tells of mounts that could not be looked into.
fn not_seen(mounts: &[String]) -> String {
    if mounts.is_empty() { String::new() } else { format!("; not looked into: {}", mounts.join(", ")) }
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
