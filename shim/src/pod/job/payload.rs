//! Finds and prepares the program of a container's process: wasm of its image, wasm in a file, or a native program.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use libcontainer::oci_spec::runtime::Spec;
use prewasi_engines::{Engine, MAGIC, Machine, Program, RunError};
use prewasi_precompiler::{
    ContainerImage, Content, Digest, Image, ImageError, Options, OptionsError, Owner, Pin, Precompiler, PrepareError,
    Settings, StoreAddress,
};

use super::data::{self, DataError};
use super::stop_signal;
use super::view::{Found, View};
use crate::engine::EngineConstructor;
use crate::failure::Kind;
use crate::node::seal::seal;
use crate::pod::docker::{self, Noted};
use crate::pod::entrypoint::{self, Entrypoint};
use crate::pod::launch::Wasm;
use crate::pod::spec;
use crate::telemetry::trace::SpanParent;

/// The first bytes of wasm in binary form.
/// The engine's name in log lines about native programs.
const NATIVE: &str = "native";

/// The program of a process.
pub(super) enum Payload {
    Wasm(Box<Wasm>),
    /// A native program, with additional environment variables.
    Native(Vec<(String, String)>),
}

/// Parameters of the lookup of a container's program.
pub(super) struct Search<'a> {
    /// Id of the container.
    pub(super) id: &'a str,
    /// The containerd that the container belongs to.
    pub(super) store: &'a StoreAddress,
    /// The file system that the container's processes see.
    pub(super) view: View<'a>,
    /// The container's bundle.
    pub(super) bundle: &'a Path,
    /// For an exec process: the program that the container itself runs. A container runs the only wasm layer of its image, under any
    /// entrypoint name; an exec process must name its wasm.
    pub(super) own: Option<String>,
    /// The image that the container is pinned to.
    pub(super) pin: Option<&'a Pin>,
    /// The trace context that the program gets.
    pub(super) origin: Option<&'a SpanParent>,
}

/// A process that is ready to be made.
pub(super) struct Prepared {
    pub(super) payload: Payload,
    /// The image that the program belongs to, if containerd was asked for one.
    pub(super) pin: Option<Pin>,
    /// Whether the container's root filesystem has been mounted in its bundle, for files of the image to be mounted in it.
    pub(super) is_taken_over: bool,
}

/// The reason why a program cannot be found or prepared.
#[derive(Debug, thiserror::Error)]
pub(super) enum PayloadError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(
        "cannot find entrypoint {program:?} in the root filesystem of the container{}{}",
        not_seen(unseen),
        if *has_image { "" } else { "; the container's record names no image, so there are no layers to search" }
    )]
    NoEntrypoint {
        program: String,
        /// Whether it is known from which image the container was made.
        has_image: bool,
        /// Mounts in which it may lie, each with the reason why it cannot be looked into.
        unseen: Vec<String>,
    },
    #[error(
        "cannot run manifest {manifest} of image {image}, from which the container was created: a part of it has been removed since; pull \
         {image} again if it still has this manifest, else pull it by digest, or create the container anew"
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

/// A loaded program.
struct Loaded {
    /// Its name in messages.
    subject: String,
    program: Box<dyn Program>,
    /// The container's options, with those of its image.
    options: Options,
    /// The signal that stops the container.
    stop_signal: Option<i32>,
    /// The image that the program belongs to.
    pin: Option<Pin>,
    /// Whether the root filesystem has been mounted in the bundle.
    is_taken_over: bool,
}

/// The image of a container, and other facts of the container's record.
#[derive(Default)]
struct Chosen {
    image: Option<Image>,
    pin: Option<Pin>,
    /// Whether an earlier record pins the container to this image.
    is_noted: bool,
    stop_signal: Option<i32>,
    /// The owner of the files, for a container without an image of containerd's. `None` if the image is not known.
    outside: Option<String>,
}

impl Chosen {
    /// Returns the owner of the native code of the container's files.
    fn owner(&self) -> Owner<'_> {
        match (&self.image, &self.outside) {
            (Some(image), _) => Owner::Image(image),
            (None, Some(owner)) => Owner::Outside(owner),
            (None, None) => Owner::Nobody,
        }
    }
}

impl PayloadError {
    /// Adds advice for the case that a part of a pinned image is missing.
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
    /// Prepares the program of the process in `spec`. On return the runtime that talks to containerd has ended, with its threads:
    /// libcontainer is about to fork.
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
        let loaded = runtime.block_on(self.load(spec, options, &entrypoint, engine))?;
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

    /// Returns the variables with the trace context, except those that the container sets itself.
    fn variables(&self, spec: &Spec) -> Vec<(String, String)> {
        let variables = self.origin.map(|origin| origin.container.variables()).unwrap_or_default();
        let own = spec::env(spec);
        variables.into_iter().filter(|(name, _)| !own.iter().any(|(known, _)| known == name)).collect()
    }

    /// Loads the program, and records the image that it belongs to. For a native file containerd is not asked.
    async fn load(
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
        let chosen = match self.image(spec, &precompiler).await {
            // A file that is executed is there although the image may be gone.
            Err(_) if self.own.is_some() && file.is_some() => Chosen::default(),
            chosen => chosen?,
        };
        let (engine, options) = tuned(engine, spec, options, chosen.image.as_ref())?;
        let noted = chosen.pin.as_ref().filter(|_| chosen.is_noted);
        let is_taken_over = match (&self.own, &chosen.image) {
            (None, Some(image)) => {
                let mounted = data::mount_all(&precompiler, image, spec, self.view.root(), self.bundle).await;
                mounted.map_err(|error| PayloadError::from(error).of_pinned(noted))?
            }
            _ => false,
        };
        let program = self.program(&precompiler, &chosen, file, entrypoint, &*engine).await;
        let Some((subject, program)) = program.map_err(|error| error.of_pinned(noted))? else {
            // It may be there when all is mounted; libcontainer looks again.
            return if entrypoint.is_named_wasm() {
                let (program, has_image) = (entrypoint.program.clone(), chosen.image.is_some());
                Err(PayloadError::NoEntrypoint { program, has_image, unseen })
            } else {
                Ok(None)
            };
        };
        if let (None, false, Some(pin)) = (&self.own, chosen.is_noted, &chosen.pin)
            && let Err(error) = precompiler.pin(self.id, pin).await
        {
            // The task's own record has the pin in any case.
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot note which image the container runs");
        }
        let Chosen { stop_signal, pin, .. } = chosen;
        Ok(Some(Loaded { subject, program, options, stop_signal, pin, is_taken_over }))
    }

    /// Loads wasm of the image or of a file, with its name for messages. A container runs the wasm of its image, under any entrypoint name.
    /// An exec process names its program: a file, else wasm of the image by its entrypoint or title there.
    async fn program(
        &self,
        precompiler: &Precompiler,
        chosen: &Chosen,
        file: Option<fs::File>,
        entrypoint: &Entrypoint,
        engine: &dyn Engine,
    ) -> Result<Option<(String, Box<dyn Program>)>, PayloadError> {
        let name = &entrypoint.program;
        let of_file = async |file| -> Result<_, PayloadError> {
            let program = precompiler.load_file(chosen.owner(), name, file, engine).await?;
            Ok(program.map(|program| (name.clone(), program)))
        };
        let file = match (&self.own, file) {
            (Some(_), Some(file)) => return of_file(file).await,
            (own, file) => {
                if let Some(image) = &chosen.image {
                    if let Some(own) = own {
                        check_name(own, name, image)?;
                    }
                    if let Some(program) = precompiler.load(image, Some(name), engine).await? {
                        return Ok(Some((format!("image {}", image.name), program)));
                    }
                }
                file
            }
        };
        match file {
            Some(file) => of_file(file).await,
            None => Ok(None),
        }
    }

    async fn precompiler(&self, options: &Options) -> Result<Precompiler, PayloadError> {
        let mut settings = Settings::for_store(self.store.clone());
        options.apply(&mut settings);
        Ok(Precompiler::connect(settings).await?)
    }

    /// Reads the image that the container was made from, as it was then.
    async fn image(&self, spec: &Spec, precompiler: &Precompiler) -> Result<Chosen, PayloadError> {
        let record = precompiler.container(self.id).await?;
        let docker = record.labels.contains_key(docker::LABEL).then(|| docker::noted(self.id, spec)).flatten();
        let known = match self.pin {
            Some(pin) => ContainerImage::Pinned(pin.clone()),
            None => ContainerImage::of(&record, self.id),
        };
        let (image, pin, is_noted) = match known {
            ContainerImage::None => {
                let image = self.image_of_docker(docker.as_ref(), precompiler).await?;
                let stop_signal = stop_signal::of_container(&record, docker.as_ref(), image.as_ref());
                let outside = Some(docker.map(|docker| docker.id.to_string()).unwrap_or_default());
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

    /// Reads the image that the container runs according to Docker's notes. Returns `None` if containerd does not have it, because Docker
    /// has a store of its own.
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

    /// Opens the entrypoint's file.
    fn find(&self, spec: &Spec, entrypoint: &Entrypoint) -> Result<Found, PayloadError> {
        let env = spec::env(spec);
        let search =
            env.iter().rfind(|(name, _)| name == "PATH").map_or(spec::DEFAULT_PATH, |(_, value)| value.as_str());
        self.view
            .find(entrypoint, &spec::cwd(spec), search)
            .map_err(|source| PayloadError::Entrypoint { program: entrypoint.program.clone(), source })
    }
}

/// Checks that an exec process names wasm of the image correctly: by the name of the container's program, or by a title.
fn check_name(own: &str, name: &str, image: &Image) -> Result<(), PayloadError> {
    let Content::Wasm(layers) = &image.content else { return Ok(()) };
    let titles: Vec<&str> = layers.iter().filter_map(|layer| layer.title.as_deref()).collect();
    if name == own || titles.contains(&name.trim_start_matches('/')) {
        return Ok(());
    }
    let (program, programs) = (name.to_owned(), [&[own], &*titles].concat().join(", "));
    Err(PayloadError::NoProgram { program, image: image.name.clone(), programs })
}

/// Makes the engine with the merged options of the container and its image.
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

/// Returns whether a file is wasm, by its name or its first bytes.
fn is_wasm(entrypoint: &Entrypoint, file: &fs::File) -> Result<bool, PayloadError> {
    let failed = |source| PayloadError::Entrypoint { program: entrypoint.program.clone(), source };
    Ok(entrypoint.is_named_wasm() || entrypoint::starts_with(file, &MAGIC).map_err(failed)?)
}

/// Lists mounts that could not be searched, for a message.
fn not_seen(mounts: &[String]) -> String {
    if mounts.is_empty() { String::new() } else { format!("; not looked into: {}", mounts.join(", ")) }
}

/// Lists the numbers of this process's descriptors.
fn open_descriptors() -> Vec<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let mut listed: Vec<RawFd> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The folder itself was open while it was listed.
    listed.retain(|fd| fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok());
    listed
}
