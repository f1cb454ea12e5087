//! Look up, else compile and store: the only way in which an image or a file is prepared.
//!
//! A failed cache never fails the caller: the compiled code is used from memory, with one warning and one line in the journal. A faulty
//! image always fails the caller, with the image and the layer in the message.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use prewasi_cache::{
    AnchorLabel, ArtifactCache, ArtifactKey, ContainerRecord, ContainerdStore, ContentStore, Digest, ImageRecord,
    LayoutStore, StoreError,
};
use prewasi_engines::{Engine, LoadError, NativeCode, Program, Wasm, WasmKind, version_label};

use crate::bytes::{WASM_LIMIT, hash, preamble, read, sealed_copy};
use crate::image::find;
use crate::journal::Journal;
use crate::observer::{Nobody, Observer};
use crate::provenance::{Provenance, unchangeable};
use crate::{Content, Image, ImageError, ImageProcess, Inventory, Layer, PrepareError, Settings, StoreAddress};

mod data;
mod inspect;
mod keeper;
mod own;
mod pin;
mod prune;
mod ready;
mod verify;

use keeper::Keeper;
pub use keeper::Owner;
pub use pin::{ContainerImage, Pin};
pub(crate) use prune::{PrunePolicy, Pruned};
pub(crate) use verify::{Finding, Problem, Verification};

pub use ready::Origin;
pub(crate) use ready::Ready;

/// Prepares the images of one store and namespace for engines.
pub struct Precompiler {
    store: Arc<dyn ContentStore>,
    /// The same store, if it is a containerd, for requests that only a containerd can answer.
    containerd: Option<Arc<ContainerdStore>>,
    cache: ArtifactCache,
    journal: Journal,
    /// Records of this user's own compiles, for a layout; `None` for a containerd, whose artifacts are all trusted.
    provenance: Option<Provenance>,
    settings: Settings,
    observer: Arc<dyn Observer>,
}

/// The input of an engine's load.
enum Prepared {
    /// Native code that may be loaded.
    Native(NativeCode),
    /// Wasm for an engine that does not compile.
    Wasm(Wasm),
}

/// Wasm to be prepared: the bytes, and their names in messages and in the cache.
pub(crate) struct Source {
    /// The layer with its image, or the file.
    subject: String,
    digest: Digest,
    /// The blob that bears the labels; none if there is nothing to keep the artifact with.
    anchor: Option<Digest>,
    /// The anchor, if it is one that has to be made.
    keeper: Option<Keeper>,
    bytes: Bytes,
}

enum Bytes {
    /// A layer, opened only on a miss. `labels` are those of the image record, if it refers to this image.
    Layer { image: String, labels: Option<BTreeMap<String, String>>, imports: Vec<String> },
    /// A file of a container's root.
    File { file: File, text: bool },
}

impl Precompiler {
    /// Connects to the store of `settings`.
    ///
    /// # Errors
    /// [`PrepareError::Store`] if the store cannot be opened.
    pub async fn connect(settings: Settings) -> Result<Self, PrepareError> {
        let (store, containerd): (Arc<dyn ContentStore>, _) = match &settings.store {
            StoreAddress::Containerd { address, namespace } => {
                let store = Arc::new(ContainerdStore::connect(address, namespace).await?);
                (store.clone(), Some(store))
            }
            StoreAddress::Layout(path) => (Arc::new(LayoutStore::open(path)?), None),
        };
        let cache = ArtifactCache::new(store.clone(), settings.runtime_dir.join("stamps"));
        let journal = Journal::new(&settings.runtime_dir);
        let provenance = containerd.is_none().then(|| Provenance::new(&settings.runtime_dir));
        Ok(Self { store, containerd, cache, journal, provenance, settings, observer: Arc::new(Nobody) })
    }

    /// Reports hits, misses and compiles to `observer` from now on.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer, ..self }
    }

    /// Returns containerd's record of a container. With a layout the record is empty.
    ///
    /// # Errors
    /// [`PrepareError::Store`], also without such a container.
    pub async fn container(&self, id: &str) -> Result<ContainerRecord, PrepareError> {
        match &self.containerd {
            Some(containerd) => Ok(containerd.container(id).await?),
            None => Ok(ContainerRecord::default()),
        }
    }

    /// Returns the store.
    pub fn store(&self) -> &dyn ContentStore {
        &*self.store
    }

    /// Lists the artifacts of the store, with their state for these engines.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn inventory(&self, engines: &[&dyn Engine]) -> Result<Inventory, StoreError> {
        Inventory::take(&*self.store, engines).await
    }

    /// Reads the image of that name.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] without a record of that name; else [`ImageError`] names the blob at fault.
    pub async fn resolve(&self, name: &str) -> Result<Image, ImageError> {
        let error = |source| ImageError::Store { image: name.to_owned(), source };
        let record = self.store.image(name).await.map_err(error)?;
        let record = record.ok_or_else(|| ImageError::NotFound { image: name.to_owned() })?;
        self.resolve_record(&record).await
    }

    /// Reads the process settings of an image.
    ///
    /// # Errors
    /// [`ImageError`] if the config is missing or malformed.
    pub async fn process(&self, image: &Image) -> Result<ImageProcess, ImageError> {
        image.process(&*self.store).await
    }

    /// Finds containerd's record of an image by the digest of its manifest or index. `name` is a name that the image may have, perhaps a
    /// short one. Among several records with that digest, a record of that name comes first.
    ///
    /// # Errors
    /// [`ImageError::Store`] if containerd does not list them.
    pub async fn image_of_target(&self, target: &Digest, name: &str) -> Result<Option<ImageRecord>, ImageError> {
        let error = |source| ImageError::Store { image: name.to_owned(), source };
        let Some(containerd) = &self.containerd else { return Ok(None) };
        let records = containerd.images_of(target).await.map_err(error)?;
        Ok(find(&records, name).or_else(|| records.into_iter().next()))
    }

    /// Reads the image that a record names.
    pub async fn resolve_record(&self, record: &ImageRecord) -> Result<Image, ImageError> {
        let image = Image::resolve(&*self.store, record, self.settings.platform.as_ref()).await?;
        // The span of a container has a field for it.
        tracing::Span::current().record("image", image.manifest.as_str());
        Ok(image)
    }

    /// Prepares and loads the wasm of an image: the only wasm layer, or the one with the title `entrypoint`. `None` if the image has no
    /// wasm layer: its entrypoint may still be a wasm file in the root filesystem.
    ///
    /// # Errors
    /// [`PrepareError`] names image and layer. A failed cache is no error.
    pub async fn load(
        &self,
        image: &Image,
        entrypoint: Option<&str>,
        engine: &dyn Engine,
    ) -> Result<Option<Box<dyn Program>>, PrepareError> {
        match image.content.entry(&image.name, entrypoint)? {
            Some(layer) => self.load_source(&Source::layer(image, layer), engine).await.map(Some),
            None => Ok(None),
        }
    }

    /// Prepares and loads a file of an ordinary image's root filesystem, binary or text (`name` ends in `.wat`). `name` is the path as
    /// its user wrote it, for messages. `None` if the file is not wasm.
    ///
    /// # Errors
    /// [`PrepareError`] names the file. A failed cache is no error.
    pub async fn load_file(
        &self,
        owner: Owner<'_>,
        name: &str,
        file: File,
        engine: &dyn Engine,
    ) -> Result<Option<Box<dyn Program>>, PrepareError> {
        let code = format!("{}/{}", engine.name(), version_label(engine));
        match self.source_of_file(owner, name, file, &code)? {
            Some(source) => self.load_source(&source, engine).await.map(Some),
            None => Ok(None),
        }
    }

    /// Prepares one wasm layer of an image, without loading it.
    ///
    /// # Errors
    /// [`PrepareError`] names image and layer. A failed cache is no error.
    pub async fn prepare_layer(
        &self,
        image: &Image,
        layer: &Layer,
        engine: &dyn Engine,
    ) -> Result<Ready, PrepareError> {
        let source = Source::layer(image, layer);
        let ready = self.obtain(&source, engine).await?;
        self.note(&source, engine, &ready);
        if let Some(digest) = ready.stored.as_ref().filter(|_| !image.pinned) {
            self.mark_image(&image.name, &image.labels, engine, digest).await;
        }
        Ok(ready)
    }

    /// Describes a file as a source of this version of an engine's code.
    fn source_of_file(
        &self,
        owner: Owner<'_>,
        name: &str,
        file: File,
        code: &str,
    ) -> Result<Option<Source>, PrepareError> {
        let subject = match owner {
            Owner::Image(image) => format!("{name} of image {}", image.name),
            Owner::Nobody | Owner::Outside(_) => name.to_owned(),
        };
        let io = |source| PrepareError::Io { subject: subject.clone(), source };
        let text = name.ends_with(".wat");
        if !text && WasmKind::of(&preamble(&file).map_err(io)?).is_err() && !name.ends_with(".wasm") {
            return Ok(None);
        }
        let digest = hash(&file).map_err(io)?;
        let (anchor, keeper) = match owner {
            Owner::Image(image) => (Some(image.manifest.clone()), None),
            // In a layout nothing would ever go.
            Owner::Outside(name) if self.containerd.is_some() => {
                let keeper = Keeper::of(name, code);
                (Some(keeper.digest.clone()), Some(keeper))
            }
            Owner::Nobody | Owner::Outside(_) => (None, None),
        };
        Ok(Some(Source { subject, digest, anchor, keeper, bytes: Bytes::File { file, text } }))
    }

    async fn prepare_source(&self, source: &Source, engine: &dyn Engine) -> Result<Prepared, PrepareError> {
        if !engine.compiles() {
            return self.read_wasm(source).await.map(Prepared::Wasm);
        }
        let ready = self.obtain(source, engine).await?;
        let ready = self.own(source, engine, ready).await?;
        if let (Some(digest), Bytes::Layer { image, labels: Some(labels), .. }) = (&ready.stored, &source.bytes) {
            self.mark_image(image, labels, engine, digest).await;
        }
        Ok(Prepared::Native(trust(ready)))
    }

    async fn load_source(&self, source: &Source, engine: &dyn Engine) -> Result<Box<dyn Program>, PrepareError> {
        let error = |error| PrepareError::Load { subject: source.subject.clone(), source: error };
        let load = |code| tracing::info_span!("load", source = %source.digest).in_scope(|| engine.load(code));
        match self.prepare_source(source, engine).await? {
            Prepared::Native(code) => match load(code) {
                Err(LoadError::Incompatible { reason }) => {
                    tracing::warn!(subject = source.subject, reason, "cannot load stored native code; compiling again");
                    let ready = self.replace(source, engine).await?;
                    let ready = self.own(source, engine, ready).await?;
                    load(trust(ready)).map_err(error)
                }
                loaded => loaded.map_err(error),
            },
            Prepared::Wasm(wasm) => engine.load_wasm(&wasm).map_err(error),
        }
    }

    /// Makes the checks that do not need the turn to compile.
    async fn check(&self, source: &Source) -> Result<(), PrepareError> {
        match &source.bytes {
            Bytes::File { file, text } => source.check_preamble(file, *text),
            Bytes::Layer { .. } => self.open(source).await.map(drop),
        }
    }

    /// Opens the wasm and verifies its digest. Its bytes cannot change from then on. An artifact for one digest must not be made of other
    /// bytes, and the container that the file belongs to may run already.
    async fn open(&self, source: &Source) -> Result<(File, bool), PrepareError> {
        let (file, text) = match &source.bytes {
            Bytes::File { file, text } => {
                let limit = WASM_LIMIT.min(self.settings.compile.memory);
                (sealed_copy(file, &source.digest, limit).map_err(source.io_failed())?, *text)
            }
            Bytes::Layer { image, .. } => (self.open_layer(image, source).await?, false),
        };
        source.check_preamble(&file, text)?;
        Ok((file, text))
    }

    async fn open_layer(&self, image: &str, source: &Source) -> Result<File, PrepareError> {
        let digest = &source.digest;
        let missing = || ImageError::MissingBlob { image: image.to_owned(), what: "layer", digest: digest.clone() };
        let store_error = |source| ImageError::Store { image: image.to_owned(), source };
        let blob = match self.store.open(digest).await {
            Ok(blob) => blob,
            Err(StoreError::NotFound { .. }) => return Err(missing().into()),
            Err(error) => return Err(store_error(error).into()),
        };
        let actual = hash(&blob.file).map_err(source.io_failed())?;
        if actual != *digest {
            return Err(store_error(StoreError::Corrupt { digest: digest.clone(), actual }).into());
        }
        match &self.provenance {
            // Any user may have made the layout.
            Some(_) => unchangeable(blob.file, digest).map_err(source.io_failed()),
            None => Ok(blob.file),
        }
    }

    /// Reads the wasm for an engine that does not compile.
    async fn read_wasm(&self, source: &Source) -> Result<Wasm, PrepareError> {
        let (bytes, text) = match &source.bytes {
            Bytes::File { file, text } => (read(file), *text),
            Bytes::Layer { image, .. } => (read(&self.open_layer(image, source).await?), false),
        };
        let bytes = bytes.map_err(source.io_failed())?;
        let wasm = if text { Wasm::from_text(&bytes) } else { Wasm::new(bytes) };
        wasm.map_err(|error| PrepareError::NotWasm { subject: source.subject.clone(), source: error })
    }

    /// Writes the artifact's digest to a label of the image record, for people who read `ctr images ls`. A write costs containerd a
    /// transaction, so it is skipped if the `labels` that were read have the value already.
    async fn mark_image(&self, image: &str, labels: &BTreeMap<String, String>, engine: &dyn Engine, artifact: &Digest) {
        let label = AnchorLabel { engine: engine.name().to_owned(), version: version_label(engine), source: None };
        let key = label.plain();
        if labels.get(&key).is_some_and(|noted| noted == artifact.as_str()) {
            return;
        }
        if let Err(error) = self.store.set_image_label(image, &key, artifact.as_str()).await {
            tracing::debug!(image, error = &error as &dyn std::error::Error, "cannot label the image record");
        }
    }
}

impl Source {
    fn layer(image: &Image, layer: &Layer) -> Self {
        // With several layers it is not known which one the config describes.
        let is_alone = matches!(&image.content, Content::Wasm(layers) if layers.len() == 1);
        let imports = if is_alone { image.imports.clone() } else { Vec::new() };
        let labels = (!image.pinned).then(|| image.labels.clone());
        Self {
            subject: format!("layer {} of image {}", layer.digest, image.name),
            digest: layer.digest.clone(),
            anchor: Some(layer.digest.clone()),
            keeper: None,
            bytes: Bytes::Layer { image: image.name.clone(), labels, imports },
        }
    }

    fn io_failed(&self) -> impl FnOnce(std::io::Error) -> PrepareError {
        let subject = self.subject.clone();
        move |source| PrepareError::Io { subject, source }
    }

    fn check_preamble(&self, file: &File, text: bool) -> Result<(), PrepareError> {
        if text {
            return Ok(());
        }
        let kind = WasmKind::of(&preamble(file).map_err(self.io_failed())?);
        kind.map(drop).map_err(|error| PrepareError::NotWasm { subject: self.subject.clone(), source: error.into() })
    }

    fn key(&self, engine: &dyn Engine) -> Option<ArtifactKey> {
        Some(ArtifactKey {
            source: self.digest.clone(),
            anchor: self.anchor.clone()?,
            engine: engine.name().to_owned(),
            version: version_label(engine),
            fingerprint: engine.fingerprint().hex().to_owned(),
        })
    }
}

/// Vouches for native code. This is the only place that does.
fn trust(ready: Ready) -> NativeCode {
    let Ready { file, size, .. } = ready;
    // SAFETY: a `Ready` is made in two ways (see `ready.rs`). The first is a look-up. It reached the artifact through prewasi's label on
    // its source. The artifact's own labels name that source and the engine's full fingerprint, and its digest was verified. The second
    // is the sealed output of this program's own compile worker. Images cannot set labels. Only root can change the files of containerd's
    // blobs. Artifacts of a layout went through `Precompiler::own`.
    unsafe { NativeCode::trust(file, size) }
}

/// Interval at which a waiter checks whether another process's compile is done.
const POLL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const MODULE: &[u8] = b"\0asm\x01\0\0\0";

    /// A file that is changed after it was hashed is not compiled under its former digest.
    #[tokio::test]
    async fn changed_files_are_not_compiled() {
        let folder = tempfile::tempdir().unwrap();
        LayoutStore::create(folder.path()).unwrap();
        let settings = Settings::for_store(StoreAddress::Layout(folder.path().to_owned()));
        let precompiler = Precompiler::connect(settings).await.unwrap();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(MODULE, 0).unwrap();
        let source =
            precompiler.source_of_file(Owner::Nobody, "/a.wasm", file.try_clone().unwrap(), "e/1").unwrap().unwrap();
        let (opened, _) = precompiler.open(&source).await.unwrap();
        file.write_all_at(b"\x0b\x02\x01\0", MODULE.len() as u64).unwrap();
        assert_eq!(read(&opened).unwrap(), MODULE);
        let error = precompiler.open(&source).await.unwrap_err();
        assert!(
            matches!(&error, PrepareError::Io { source, .. } if source.to_string().contains("changed")),
            "{error:?}"
        );
    }
}
