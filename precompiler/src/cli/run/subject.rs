//! Finds the program to run and prepares it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use prewasi_cache::LayoutStore;
use prewasi_engines::Engine;
use prewasi_oci::{PreambleError, WasmKind};
use rustix::fs::{Mode, OFlags};

use super::super::settings;
use super::{CannotRun, Prepared, Run};
use crate::bytes::preamble;
use crate::entrypoint::{is_named_wasm, split_function};
use crate::{Content, Options, Owner, Precompiler, PrepareError, Settings, StoreAddress, archive};

/// The meaning of the first argument. An existing file or folder takes precedence over an image of that name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// An image of the store that the other options name.
    Image(String),
    /// A folder with an OCI layout, and the name of an image in it.
    Layout(PathBuf, Option<String>),
    Archive(PathBuf),
    /// A wasm file, binary or text, and the export to call.
    File(PathBuf, Option<String>),
}

impl Subject {
    pub(super) fn parse(text: &str, store: Option<&Path>) -> Result<Self, CannotRun> {
        if store.is_some() {
            return Ok(Self::Image(text.to_owned()));
        }
        if let Some(layout) = text.strip_prefix("oci:") {
            // As skopeo and umoci write it, the name may follow the path.
            return Ok(match layout.rsplit_once(':') {
                Some((path, name)) if !Path::new(layout).exists() && !name.contains('/') => {
                    Self::Layout(path.into(), Some(name.to_owned()))
                }
                _ => Self::Layout(layout.into(), None),
            });
        }
        if let Some(subject) = Self::of_path(text, None)? {
            return Ok(subject);
        }
        let (path, function) = split_function(text);
        if path != text
            && let Some(subject @ Self::File(..)) = Self::of_path(path, function)?
        {
            return Ok(subject);
        }
        let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
        if text.starts_with(['/', '.']) || matches!(extension, Some("wasm" | "wat" | "tar")) {
            return Err(CannotRun::NoFile { path: text.to_owned() });
        }
        Ok(Self::Image(text.to_owned()))
    }

    fn of_path(path: &str, function: Option<&str>) -> Result<Option<Self>, CannotRun> {
        let Ok(metadata) = fs::metadata(path) else { return Ok(None) };
        if metadata.is_dir() {
            return Ok(Some(Self::Layout(path.into(), None)));
        }
        let kind = WasmKind::of(&preamble(&open(path)?).map_err(|source| io(&format!("read {path}"), source))?);
        let file = || Self::File(path.into(), function.map(str::to_owned));
        match kind {
            _ if is_named_wasm(path) => Ok(Some(file())),
            Err(source @ PreambleError::NativeCode { .. }) => {
                Err(CannotRun::NoProgram { path: path.to_owned(), source })
            }
            Err(PreambleError::NotWasm | PreambleError::Empty) => Ok(Some(Self::Archive(path.into()))),
            _ => Ok(Some(file())),
        }
    }

    pub(super) async fn prepare(self, run: &Run, engine: &dyn Engine) -> Result<Prepared, CannotRun> {
        match self {
            Self::Image(name) => {
                let settings = run.store.settings().map_err(PrepareError::from)?;
                image(run, engine, settings, Some(&name)).await
            }
            Self::Layout(path, _) if !path.join("index.json").is_file() => Err(CannotRun::NoLayout { path }),
            Self::Layout(path, name) => {
                image(run, engine, layout(path)?, run.image.as_deref().or(name.as_deref())).await
            }
            Self::Archive(path) => {
                let unpacked = archive::unpack(&path)?;
                // Only blobs were unpacked, and no other user can reach them.
                let settings = Settings { trust_layout: true, ..layout(unpacked.path().to_owned())? };
                image(run, engine, settings, run.image.as_deref()).await
            }
            Self::File(path, function) => file(run, engine, &path, function).await,
        }
    }
}

fn layout(path: PathBuf) -> Result<Settings, PrepareError> {
    Ok(settings(StoreAddress::Layout(path))?)
}

/// Prepares an image of a store: the one of that name, else the only one.
async fn image(run: &Run, engine: &dyn Engine, settings: Settings, name: Option<&str>) -> Result<Prepared, CannotRun> {
    let settings = Settings { trust_layout: settings.trust_layout || run.trust_layout, ..settings };
    let precompiler = Precompiler::connect(settings).await.map_err(CannotRun::Prepare)?;
    let name = choose(&precompiler, run.subject(), name).await?;
    let image = precompiler.resolve(&name).await.map_err(PrepareError::from)?;
    let layers = match &image.content {
        Content::Wasm(layers) => layers,
        Content::Files { platform } => {
            return Err(CannotRun::OrdinaryImage { image: name, platform: platform.clone() });
        }
    };
    let process = precompiler.process(&image).await.map_err(PrepareError::from)?;
    // The default of containerd for an image without a command.
    let title = layers.first().and_then(|layer| layer.title.clone()).unwrap_or_else(|| name.clone());
    let (mut guest, entrypoint) = run.guest.guest(Some(process), &title, run.args());
    let is_given = |path: &Path| guest.preopens.iter().any(|preopen| path.starts_with(&preopen.guest));
    if let Some(file) = image.data_files().map_err(PrepareError::from)?.into_iter().find(|file| !is_given(&file.path)) {
        return Err(CannotRun::Data { image: name, layer: file.digest, path: file.path });
    }
    let options = Options::of_node().map_err(PrepareError::from)?;
    let (engine, options) = options.tuned(engine, Some(&image), run.cpu.machine(), None)?;
    options.limit(&mut guest).map_err(PrepareError::from)?;
    let program = precompiler.load(&image, Some(&entrypoint), &*engine).await?;
    let subject = format!("image {name}");
    let program = program.ok_or_else(|| CannotRun::NotWasm { subject: subject.clone() })?;
    Ok(Prepared { subject, program, guest })
}

/// Finds the image: by its name, by a shorter form of it, or as the only one.
async fn choose(precompiler: &Precompiler, subject: &str, name: Option<&str>) -> Result<String, CannotRun> {
    let records = precompiler.store().images().await.map_err(PrepareError::from)?;
    if let Some(name) = name {
        let found = crate::image::find(&records, name);
        // The later look-up of an unknown name reports that it does not exist.
        return Ok(found.map_or_else(|| name.to_owned(), |record| record.name));
    }
    match records.as_slice() {
        [] => Err(CannotRun::NoImage { subject: subject.to_owned() }),
        [record] => Ok(record.name.clone()),
        several => {
            let names = several.iter().map(|record| record.name.as_str()).collect::<Vec<_>>().join(", ");
            Err(CannotRun::SeveralImages { subject: subject.to_owned(), names })
        }
    }
}

/// Prepares a file. Without an image its native code cannot be stored, so it is compiled each time.
async fn file(run: &Run, engine: &dyn Engine, path: &Path, function: Option<String>) -> Result<Prepared, CannotRun> {
    let name = path.display().to_string();
    let file = open(path)?;
    let folder = archive::private_folder().map_err(|source| io("create a temporary folder", source))?;
    LayoutStore::create(folder.path()).map_err(PrepareError::from)?;
    let precompiler = Precompiler::connect(layout(folder.path().to_owned())?).await?;
    let options = Options::of_node().map_err(PrepareError::from)?;
    let (engine, options) = options.tuned(engine, None, run.cpu.machine(), None)?;
    let program = precompiler.load_file(Owner::Nobody, &name, file, &*engine).await?;
    let program = program.ok_or_else(|| CannotRun::NotWasm { subject: name.clone() })?;
    let (mut guest, _) = run.guest.guest(None, &name, run.args());
    options.limit(&mut guest).map_err(PrepareError::from)?;
    guest.function = function.or(guest.function);
    Ok(Prepared { subject: name, program, guest })
}

/// Opens a regular file; never blocks on a pipe or device.
fn open(path: impl AsRef<Path>) -> Result<File, CannotRun> {
    let path = path.as_ref();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let failed = |source| io(&format!("read {}", path.display()), source);
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?);
    if file.metadata().map_err(failed)?.is_file() {
        Ok(file)
    } else {
        Err(failed(std::io::Error::other("it is no regular file")))
    }
}

fn io(action: &str, source: std::io::Error) -> CannotRun {
    CannotRun::Io { action: action.to_owned(), source }
}
