//! From an image's name to the wasm in it: record → (index → manifest) → config → layers.
//!
//! All documents read here come from an image and are hostile. Their sizes are limited before a byte is read, their digests are checked,
//! and their nesting is limited. The config and the types of the layers decide the kind of the image; the bytes are inspected later.

use std::collections::BTreeMap;
use std::sync::Mutex;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use prewasi_cache::{ContentStore, ImageRecord, StoreError};
use prewasi_oci::{Digest, Platform, annotation, media_type};
use serde::{Deserialize, Serialize};

use crate::ImageError;

mod config;
mod data;
mod process;

use config::Config;
pub(crate) use data::DataLayer;
pub(crate) use data::cut;
pub use data::{DataFile, overlap};
pub(crate) use process::ImageProcess;

/// Longest document, in bytes. Documents are read as a whole; registries and containerd itself accept no manifest above 4 MiB.
pub(crate) const DOCUMENT_LIMIT: u64 = 4 << 20;
/// Maximum nesting of indexes.
const MAX_INDEX_DEPTH: usize = 3;
/// Maximum number of entries of an index that are looked up in the store. Each costs a call, and an index has room for tens of thousands.
const MAX_CANDIDATES: usize = 64;

/// An image whose manifest and config have been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Name of the image record.
    pub name: String,
    /// Labels of the image record.
    pub labels: BTreeMap<String, String>,
    /// Digest of the chosen manifest.
    pub manifest: Digest,
    /// Media type of the manifest.
    pub media_type: String,
    /// Whether a container is pinned to this manifest, even if its image's name now refers to another one.
    pub pinned: bool,
    /// Digest of the config.
    pub config: Digest,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// The kind of content, with the wasm layers.
    pub content: Content,
    /// Layers of a wasm image that are not wasm; see [`Image::data_files`].
    pub data: Vec<DataLayer>,
    /// Imports of the wasm, from the config of a CNCF wasm artifact.
    pub imports: Vec<String>,
    /// The signal that stops a container, by name or number, if the config names one.
    pub stop_signal: Option<String>,
}

/// The content of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Wasm layers, at least one.
    Wasm(Vec<Layer>),
    /// File system layers only; the entrypoint may still be a wasm file in one of them.
    Files {
        /// `os/architecture` of the config.
        platform: String,
    },
}

/// A layer as the manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Length in bytes, according to the manifest.
    pub size: u64,
    /// Name of the file it was made from, if the packer recorded one.
    pub title: Option<String>,
}

/// One decision on the way from a name to a program, for people who ask for the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The subject of the decision: `record`, `index`, `manifest`, `config`, `layer`, `look-up`, `start`.
    pub step: &'static str,
    /// The finding.
    pub found: String,
    /// The conclusion, with its reason.
    pub therefore: String,
}

impl Image {
    /// Reads the image that a record refers to. With `wanted`, only that platform is accepted.
    ///
    /// # Errors
    /// [`ImageError`] names the image and the blob at fault.
    pub async fn resolve(
        store: &dyn ContentStore,
        record: &ImageRecord,
        wanted: Option<&Platform>,
    ) -> Result<Self, ImageError> {
        Resolver::new(store, &record.name, wanted).image(record).await
    }

    /// Reads the image as [`Self::resolve`] does, and returns each decision up to the end or the error.
    pub(crate) async fn explain(
        store: &dyn ContentStore,
        record: &ImageRecord,
        wanted: Option<&Platform>,
    ) -> (Vec<Step>, Result<Self, ImageError>) {
        let resolver = Resolver::new(store, &record.name, wanted);
        let image = resolver.image(record).await;
        (resolver.steps.into_inner().unwrap_or_default(), image)
    }
}

impl Content {
    /// Returns the layer that a container with this entrypoint runs: the only one, else the one with that title. `None` if the image has
    /// no wasm layer. `image` is the image's name, for messages.
    ///
    /// # Errors
    /// [`ImageError::Ambiguous`] if no layer of several has that title.
    pub fn entry<'a>(&'a self, image: &str, entrypoint: Option<&str>) -> Result<Option<&'a Layer>, ImageError> {
        let layers = match self {
            Self::Files { .. } => return Ok(None),
            Self::Wasm(layers) => layers,
        };
        if let [layer] = layers.as_slice() {
            return Ok(Some(layer));
        }
        let wanted = entrypoint.map(|name| name.trim_start_matches('/'));
        layers.iter().find(|layer| layer.title.is_some() && layer.title.as_deref() == wanted).map(Some).ok_or_else(
            || ImageError::Ambiguous {
                image: image.to_owned(),
                entrypoint: entrypoint.unwrap_or_default().to_owned(),
                titles: layers
                    .iter()
                    .map(|l| l.title.as_deref().unwrap_or(l.digest.as_str()))
                    .collect::<Vec<_>>()
                    .join(", "),
            },
        )
    }
}

/// Finds an image by its name, by the short form of its name, or by the digest that it points to.
pub(crate) fn find(records: &[ImageRecord], wanted: &str) -> Option<ImageRecord> {
    let candidates = [
        wanted.to_owned(),
        format!("{wanted}:latest"),
        format!("docker.io/{wanted}"),
        format!("docker.io/library/{wanted}"),
        format!("docker.io/{wanted}:latest"),
        format!("docker.io/library/{wanted}:latest"),
    ];
    candidates
        .iter()
        .find_map(|name| records.iter().find(|record| record.name == *name))
        .or_else(|| records.iter().find(|record| record.target.as_str() == wanted))
        .cloned()
}

struct Resolver<'a> {
    store: &'a dyn ContentStore,
    image: &'a str,
    wanted: Option<&'a Platform>,
    steps: Mutex<Vec<Step>>,
}

impl<'a> Resolver<'a> {
    fn new(store: &'a dyn ContentStore, image: &'a str, wanted: Option<&'a Platform>) -> Self {
        Self { store, image, wanted, steps: Mutex::default() }
    }

    fn note(&self, step: &'static str, found: String, therefore: String) {
        if let Ok(mut steps) = self.steps.lock() {
            steps.push(Step { step, found, therefore });
        }
    }

    async fn image(&self, record: &ImageRecord) -> Result<Image, ImageError> {
        self.note(
            "record",
            format!("{} → {}", record.name, record.target),
            format!("its type is {}", record.media_type),
        );
        let (digest, media_type, manifest) = self.manifest(record).await?;
        let config = self.digest(manifest.config())?;
        let read = self.config(&manifest, &config).await?;
        let imports = if is_artifact(&manifest) { read.imports() } else { Vec::new() };
        let stop_signal = read.stop_signal();
        let (content, data) = self.content(&manifest, &read.platform)?;
        let (name, labels) = (record.name.clone(), record.labels.clone());
        let annotations =
            manifest.annotations().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        let (manifest, pinned) = (digest, false);
        Ok(Image {
            name,
            labels,
            manifest,
            media_type,
            pinned,
            config,
            annotations,
            content,
            data,
            imports,
            stop_signal,
        })
    }

    /// Follows indexes to a manifest.
    async fn manifest(&self, record: &ImageRecord) -> Result<(Digest, String, ImageManifest), ImageError> {
        let mut digest = record.target.clone();
        let mut media_type = record.media_type.clone();
        for _ in 0..=MAX_INDEX_DEPTH {
            if media_type::is_manifest(&media_type) {
                let manifest: ImageManifest = self.document("manifest", &digest).await?;
                let layers = manifest.layers().len();
                self.note("manifest", digest.to_string(), format!("it has a config and {layers} layer(s)"));
                return Ok((digest, media_type, manifest));
            }
            if !media_type::is_index(&media_type) {
                return Err(ImageError::NotAnImage { image: self.image.to_owned(), digest, media_type });
            }
            let index: ImageIndex = self.document("index", &digest).await?;
            let chosen = self.choose(&digest, &index).await?;
            media_type = chosen.media_type().to_string();
            digest = self.digest(chosen)?;
        }
        Err(ImageError::TooDeep { image: self.image.to_owned(), limit: MAX_INDEX_DEPTH })
    }

    /// Chooses the manifest for wasm, else the one for this machine. Of several the first counts, as in the OCI image index
    /// specification. A manifest whose blob was never pulled is skipped while there is another.
    async fn choose<'i>(&self, digest: &Digest, index: &'i ImageIndex) -> Result<&'i Descriptor, ImageError> {
        let mut candidates: Vec<(u8, &Descriptor)> =
            index.manifests().iter().filter_map(|m| rank(m, self.wanted).map(|rank| (rank, m))).collect();
        candidates.sort_by_key(|(rank, _)| *rank);
        let Some((_, first)) = candidates.first() else {
            let image = self.image.to_owned();
            return Err(match self.wanted {
                Some(wanted) => ImageError::OtherPlatform { image, digest: digest.clone(), wanted: wanted.to_string() },
                None => ImageError::NoPlatform { image, index: digest.clone() },
            });
        };
        for (rank, candidate) in candidates.iter().take(MAX_CANDIDATES) {
            if self.info(&self.digest(candidate)?).await?.is_some() {
                let found = format!("{digest}, {} entries, {} of use", index.manifests().len(), candidates.len());
                let why = match (self.wanted, rank) {
                    (Some(wanted), _) => format!("the first for {wanted}, as asked for"),
                    (None, 0) => "the first for wasm".to_owned(),
                    (None, _) => "there is none for wasm; the first for this machine".to_owned(),
                };
                self.note("index", found, format!("{} is taken: {why}", candidate.digest()));
                return Ok(candidate);
            }
        }
        Err(ImageError::MissingBlob { image: self.image.to_owned(), what: "manifest", digest: self.digest(first)? })
    }

    /// Reads the config. Its platform must be the wanted one.
    async fn config(&self, manifest: &ImageManifest, config: &Digest) -> Result<Config, ImageError> {
        let read: Config = self.document("config", config).await?;
        let platform = &read.platform;
        let says = if says_wasm(manifest, platform) { "it says wasm" } else { "it does not say wasm" };
        self.note("config", format!("{config}, platform {platform}"), says.to_owned());
        match self.wanted {
            Some(wanted) if *wanted != read.platform => Err(ImageError::OtherPlatform {
                image: self.image.to_owned(),
                digest: config.clone(),
                wanted: wanted.to_string(),
            }),
            _ => Ok(read),
        }
    }

    /// Decides the content of the image. Beside wasm, layers that containerd unpacks are the root filesystem, as in any image; all others
    /// are data. An artifact has no root filesystem.
    fn content(&self, manifest: &ImageManifest, platform: &Platform) -> Result<(Content, Vec<DataLayer>), ImageError> {
        let image = || self.image.to_owned();
        let described = platform.to_string();
        let mut wasm = Vec::new();
        let mut data = Vec::new();
        let mut files = false;
        for layer in manifest.layers() {
            let media_type = layer.media_type().to_string();
            let said = |key| layer.annotations().as_ref().and_then(|map| map.get(key)).cloned();
            let (title, mount) = (said(annotation::TITLE), said(annotation::MOUNT));
            let found = format!("{}, {media_type}", layer.digest());
            if media_type::is_wasm(&media_type) {
                self.note("layer", found, "a wasm layer".to_owned());
                wasm.push(Layer { digest: self.digest(layer)?, size: layer.size(), title });
            } else if media_type::is_unpacked(&media_type) && mount.is_none() && !is_artifact(manifest) {
                self.note("layer", found, "a file system layer".to_owned());
                files = true;
            } else {
                let layer = DataLayer { digest: self.digest(layer)?, size: layer.size(), media_type, mount };
                self.note("layer", found, layer.describe());
                data.push(layer);
            }
        }
        let says_wasm = says_wasm(manifest, platform);
        if says_wasm && !wasm.is_empty() {
            return Ok((Content::Wasm(wasm), data));
        }
        if let Some(unknown) = data.iter().find(|layer| !media_type::is_unpacked(&layer.media_type)) {
            let (layer, media_type) = (unknown.digest.to_string(), unknown.media_type.clone());
            return Err(ImageError::UnknownLayer { image: image(), layer, media_type });
        }
        let content = match (says_wasm, wasm.is_empty()) {
            (true, true) if !files && data.is_empty() => {
                Err(ImageError::NoWasm { image: image(), platform: described })
            }
            (_, false) => {
                Err(ImageError::ConfigNotWasm { image: image(), layer: wasm[0].digest.clone(), platform: described })
            }
            (_, true) => Ok(Content::Files { platform: described }),
        };
        Ok((content?, Vec::new()))
    }

    async fn document<T: for<'de> Deserialize<'de>>(
        &self,
        what: &'static str,
        digest: &Digest,
    ) -> Result<T, ImageError> {
        let image = || self.image.to_owned();
        let bytes = match self.store.read(digest, DOCUMENT_LIMIT).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => {
                return Err(ImageError::MissingBlob { image: image(), what, digest: digest.clone() });
            }
            Err(source) => return Err(ImageError::Store { image: image(), source }),
        };
        serde_json::from_slice(&bytes).map_err(|source| ImageError::Malformed {
            image: image(),
            what,
            digest: digest.clone(),
            source: source.into(),
        })
    }

    async fn info(&self, digest: &Digest) -> Result<Option<prewasi_cache::BlobInfo>, ImageError> {
        self.store.info(digest).await.map_err(|source| ImageError::Store { image: self.image.to_owned(), source })
    }

    fn digest(&self, descriptor: &Descriptor) -> Result<Digest, ImageError> {
        let text = descriptor.digest().to_string();
        text.parse().map_err(|source| ImageError::Digest { image: self.image.to_owned(), source })
    }
}

fn says_wasm(manifest: &ImageManifest, platform: &Platform) -> bool {
    platform.says_wasm() || is_artifact(manifest)
}

fn is_artifact(manifest: &ImageManifest) -> bool {
    manifest.config().media_type().as_ref() == media_type::WASM_CONFIG
}

/// Returns whether blobs of this type refer to further blobs, and may be read as a whole.
pub(crate) fn is_document(media_type: &str) -> bool {
    media_type::is_index(media_type) || media_type::is_manifest(media_type)
}

/// Ranks an index's entry: 0 for wasm, 1 for this machine, `None` for other machines and attestations. With a wanted platform only that
/// counts.
fn rank(descriptor: &Descriptor, wanted: Option<&Platform>) -> Option<u8> {
    let attestation = descriptor
        .annotations()
        .as_ref()
        .is_some_and(|map| map.get(annotation::REFERENCE_TYPE).is_some_and(|kind| kind == annotation::ATTESTATION));
    if attestation {
        return None;
    }
    let Some(platform) = descriptor.platform() else { return Some(1) };
    let platform = Platform { os: platform.os().to_string(), architecture: platform.architecture().to_string() };
    match wanted {
        Some(wanted) => (platform == *wanted).then_some(0),
        None if platform.is_wasm() => Some(0),
        None => (platform == Platform::host()).then_some(1),
    }
}

#[cfg(test)]
mod tests;
