//! Collects the content of an image or artifact, and makes its documents.

use std::collections::BTreeMap;
use std::path::Path;

use prewasi_oci::{Digest, Platform, annotation, media_type};

use crate::document::{
    Component, Descriptor, DockerManifest, ImageConfig, ImageProcess, Index, Layout, Manifest, Map, RootFs, WasmConfig,
    json,
};
use crate::image::{Blob, Format, Image};
use crate::layer::Source;
use crate::{Layer, Reference};

/// Collects layers and settings; [`Builder::build`] makes an [`Image`] of them.
#[derive(Debug)]
pub struct Builder {
    reference: Reference,
    format: Format,
    layers: Vec<Layer>,
    os: Option<String>,
    entrypoint: Vec<String>,
    env: Vec<String>,
    stop_signal: Option<String>,
    labels: Map,
    annotations: Map,
    platform_index: bool,
    created: u64,
}

/// Says why no image can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// There is nothing to pack.
    #[error("cannot build {reference}: there is no module, component or layer to pack")]
    NoLayers {
        /// The image.
        reference: String,
    },
    /// Data alone is nothing to run.
    #[error("cannot build {reference}: it has data but no wasm layer; data is for wasm programs")]
    NoProgram {
        /// The image.
        reference: String,
    },
    /// Two files are in each other's way.
    #[error("cannot build {reference}: {path} and {other} cannot both be mounted")]
    Overlap {
        /// The image.
        reference: String,
        /// Where one file is mounted.
        path: String,
        /// Where the other one is.
        other: String,
    },
    /// A layer is neither wasm nor files nor data.
    #[error(
        "cannot build {reference}: no runtime uses {layer}: {media_type} is neither wasm nor a layer of files, and the layer has no mount path"
    )]
    UselessLayer {
        /// The image.
        reference: String,
        /// The layer's file, or its digest.
        layer: String,
        /// The layer's type.
        media_type: String,
    },
    /// The os of an image with wasm is not one of wasm.
    #[error("cannot build {reference} for os {os:?}: it has wasm, which runs on wasip1, wasip2 or wasi")]
    OsOfWasm {
        /// The image.
        reference: String,
        /// The os that was asked for.
        os: String,
    },
    /// A wasm artifact has exactly one layer, not counting data.
    #[error("cannot build artifact {reference} of {count} layers: a wasm artifact has exactly one")]
    ArtifactLayers {
        /// The artifact.
        reference: String,
        /// How many there are.
        count: usize,
    },
    /// The layer of a wasm artifact is wasm, of the one type that there is for it.
    #[error("cannot build artifact {reference} of a {media_type} layer: its layer must be application/wasm")]
    ArtifactType {
        /// The artifact.
        reference: String,
        /// The layer's type.
        media_type: String,
    },
    /// A wasm artifact has no place for a setting.
    #[error("cannot build artifact {reference}: a wasm artifact has no {setting}")]
    ArtifactSetting {
        /// The artifact.
        reference: String,
        /// Which setting.
        setting: &'static str,
    },
    /// No layer is wasm, so the operating system of the image is unknown.
    #[error("cannot choose the os of {reference}: no layer of it is wasm")]
    NoOs {
        /// The image.
        reference: String,
    },
    /// Modules and components are for different systems.
    #[error("cannot choose the os of {reference}: it has both modules and components")]
    MixedOs {
        /// The image.
        reference: String,
    },
    /// The os is no word.
    #[error("cannot use os {os:?}: expected a word such as wasip1, wasip2, wasi or linux")]
    Os {
        /// The text.
        os: String,
    },
    /// The name of an environment variable or the key of a label or annotation is not usable.
    #[error("cannot use {setting} {key:?}: its name is empty, or has a character that is not allowed")]
    Key {
        /// `environment variable`, `label` or `annotation`.
        setting: &'static str,
        /// The name.
        key: String,
    },
    /// The label is written by the builder.
    #[error("cannot set label {key}: it is made from the layers")]
    ReservedLabel {
        /// The key.
        key: &'static str,
    },
    /// The time is later than dates can be written.
    #[error("cannot write {seconds} seconds after 1970 as a date")]
    Created {
        /// The number.
        seconds: u64,
    },
    /// The reference was pinned to another digest than the image has.
    #[error("cannot build {reference}: the image has digest {digest}")]
    Pinned {
        /// The reference, digest included.
        reference: String,
        /// The digest that came out.
        digest: Digest,
    },
}

impl Builder {
    /// Begins an image, or a wasm artifact, of that name. Without tag and digest it gets the tag `latest`.
    pub fn new(format: Format, reference: Reference) -> Self {
        Self {
            reference: reference.or_latest(),
            format,
            layers: Vec::new(),
            os: None,
            entrypoint: Vec::new(),
            env: Vec::new(),
            stop_signal: None,
            labels: Map::new(),
            annotations: Map::new(),
            platform_index: false,
            created: 0,
        }
    }

    /// Adds a layer above those that are there.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Sets the os. Without it, the wasm says: `wasip1` for a module, `wasip2` for a component.
    #[must_use]
    pub fn os(mut self, os: &str) -> Self {
        self.os = Some(os.to_owned());
        self
    }

    /// Sets program and arguments. Without them, the program is the file name of the first wasm layer.
    #[must_use]
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Sets the signal that stops a container, by name or number.
    #[must_use]
    pub fn stop_signal(mut self, signal: &str) -> Self {
        self.stop_signal = Some(signal.to_owned());
        self
    }

    /// Sets a label of the image's config.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets an annotation of the manifest.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Wraps the manifest in an image index that names its platform.
    #[must_use]
    pub fn platform_index(mut self, wrap: bool) -> Self {
        self.platform_index = wrap;
        self
    }

    /// Sets the time that is written into the archive, in seconds after 1970. It is 0 at first: a build twice is the
    /// same build.
    #[must_use]
    pub fn created(mut self, seconds: u64) -> Self {
        self.created = seconds;
        self
    }

    /// Makes the documents.
    ///
    /// # Errors
    /// [`BuildError`] names the parts that do not fit together.
    pub fn build(self) -> Result<Image, BuildError> {
        self.check()?;
        let platform = self.platform()?;
        if !platform.says_wasm() && self.layers.iter().any(|layer| layer.wasm().is_some()) {
            return Err(BuildError::OsOfWasm { reference: self.reference.to_string(), os: platform.os });
        }
        let created = i64::try_from(self.created)
            .ok()
            .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
            .ok_or(BuildError::Created { seconds: self.created })?
            .to_string();
        let mut blobs = BTreeMap::new();
        let (config_type, config) = match self.format {
            Format::Image => (media_type::IMAGE_CONFIG, self.image_config(created, &platform)),
            Format::Artifact => (media_type::WASM_CONFIG, self.wasm_config(created, &platform)),
        };
        let config = add(&mut blobs, config_type, config);
        let layers: Vec<Descriptor> = self.layers.iter().map(Layer::descriptor).collect();
        let docker = (self.format == Format::Image).then(|| self.docker_manifest(&config, &layers));
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::MANIFEST,
            config,
            layers,
            annotations: self.annotations,
        };
        let mut target = add(&mut blobs, media_type::MANIFEST, json(&manifest));
        if self.platform_index {
            target.platform = Some(platform.clone());
            target = add(&mut blobs, media_type::INDEX, json(&index(target)));
        }
        pinned(&self.reference, &target.digest)?;
        let digest = target.digest.clone();
        target.annotations.insert(annotation::REF_NAME.to_owned(), self.reference.object());
        target.annotations.insert(annotation::IMAGE_NAME.to_owned(), self.reference.to_string());
        let mut files =
            vec![("oci-layout", json(&Layout { image_layout_version: "1.0.0" })), ("index.json", json(&index(target)))];
        files.extend(docker.map(|docker| ("manifest.json", docker)));
        let layer_count = self.layers.len();
        for layer in self.layers {
            let (digest, size, source) = layer.into_blob();
            blobs.insert(digest, Blob { size, source });
        }
        Ok(Image {
            reference: self.reference,
            format: self.format,
            os: platform.os,
            digest,
            layer_count,
            mtime: self.created,
            files,
            blobs,
        })
    }

    fn check(&self) -> Result<(), BuildError> {
        let reference = self.reference.to_string();
        if self.layers.is_empty() {
            return Err(BuildError::NoLayers { reference });
        }
        if let Some(layer) = self.layers.iter().find(|layer| layer.is_useless()) {
            let media_type = layer.media_type().to_owned();
            let layer = layer.title().map_or_else(|| layer.digest().to_string(), str::to_owned);
            return Err(BuildError::UselessLayer { reference, layer, media_type });
        }
        self.check_data(&reference)?;
        let is_bad = |key: &str| key.is_empty() || key.contains('\0');
        if let Some(variable) = self.env.iter().find(|variable| variable.starts_with('=') || variable.contains('\0')) {
            return Err(BuildError::Key { setting: "environment variable", key: variable.clone() });
        }
        for (setting, map) in [("label", &self.labels), ("annotation", &self.annotations)] {
            if let Some(key) = map.keys().find(|key| is_bad(key)) {
                return Err(BuildError::Key { setting, key: key.clone() });
            }
        }
        if self.labels.contains_key(annotation::LAYERS_LABEL) {
            return Err(BuildError::ReservedLabel { key: annotation::LAYERS_LABEL });
        }
        if self.format == Format::Artifact { self.check_artifact(reference) } else { Ok(()) }
    }

    fn check_data(&self, reference: &str) -> Result<(), BuildError> {
        let reference = || reference.to_owned();
        let paths: Vec<&str> = self.layers.iter().filter_map(Layer::mount).collect();
        if !paths.is_empty() && !self.layers.iter().any(Layer::is_wasm) {
            return Err(BuildError::NoProgram { reference: reference() });
        }
        for (number, path) in paths.iter().enumerate() {
            let overlaps = |other: &&&str| Path::new(path).starts_with(other) || Path::new(other).starts_with(path);
            if let Some(other) = paths[..number].iter().find(overlaps) {
                let (path, other) = ((*path).to_owned(), (*other).to_owned());
                return Err(BuildError::Overlap { reference: reference(), path, other });
            }
        }
        Ok(())
    }

    fn check_artifact(&self, reference: String) -> Result<(), BuildError> {
        let settings = [
            ("entrypoint", self.entrypoint.is_empty()),
            ("environment", self.env.is_empty()),
            ("labels", self.labels.is_empty()),
            ("stop signal", self.stop_signal.is_none()),
        ];
        if let Some((setting, _)) = settings.iter().find(|(_, is_empty)| !is_empty) {
            return Err(BuildError::ArtifactSetting { reference, setting });
        }
        let layers: Vec<&Layer> = self.layers.iter().filter(|layer| layer.mount().is_none()).collect();
        match &layers[..] {
            [layer] if layer.media_type() == media_type::WASM => Ok(()),
            [layer] => Err(BuildError::ArtifactType { reference, media_type: layer.media_type().to_owned() }),
            layers => Err(BuildError::ArtifactLayers { reference, count: layers.len() }),
        }
    }

    fn platform(&self) -> Result<Platform, BuildError> {
        let os = match &self.os {
            Some(os) if os.is_empty() || !os.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) => {
                return Err(BuildError::Os { os: os.clone() });
            }
            Some(os) => os,
            None => self.os_of_layers()?,
        };
        Ok(if os.starts_with("wasi") { Platform::wasm(os) } else { Platform { os: os.to_owned(), ..Platform::host() } })
    }

    fn os_of_layers(&self) -> Result<&'static str, BuildError> {
        let reference = || self.reference.to_string();
        let mut systems = self.layers.iter().filter_map(Layer::wasm).map(|wasm| wasm.kind.os());
        let os = systems.next().ok_or_else(|| BuildError::NoOs { reference: reference() })?;
        if systems.all(|other| other == os) { Ok(os) } else { Err(BuildError::MixedOs { reference: reference() }) }
    }

    fn image_config(&self, created: String, platform: &Platform) -> Vec<u8> {
        let mut entrypoint = self.entrypoint.clone();
        if entrypoint.is_empty() {
            let first = self.layers.iter().find(|layer| layer.is_wasm());
            entrypoint.extend(first.and_then(Layer::title).map(str::to_owned));
        }
        let mut labels = self.labels.clone();
        let line = |layer: &Layer| match layer.mount() {
            None => format!("{} {}\n", layer.media_type(), layer.digest()),
            Some(path) => format!("{} {} {path}\n", layer.media_type(), layer.digest()),
        };
        let all: String = self.layers.iter().map(line).collect();
        labels.insert(annotation::LAYERS_LABEL.to_owned(), Digest::of(all.as_bytes()).to_string());
        json(&ImageConfig {
            created,
            platform: platform.clone(),
            config: ImageProcess { env: self.env.clone(), entrypoint, labels, stop_signal: self.stop_signal.clone() },
            rootfs: RootFs { kind: "layers", diff_ids: self.layers.iter().filter_map(Layer::diff_id).collect() },
        })
    }

    fn wasm_config(&self, created: String, platform: &Platform) -> Vec<u8> {
        let interface = self.layers.iter().filter_map(Layer::wasm).find_map(|wasm| wasm.interface.as_ref());
        json(&WasmConfig {
            created,
            platform: platform.clone(),
            layer_digests: self.layers.iter().map(|layer| layer.digest().clone()).collect(),
            mounts: self.layers.iter().filter_map(Layer::mount).collect(),
            component: interface.map(|interface| Component {
                exports: &interface.exports,
                imports: &interface.imports,
                target: interface.target(),
            }),
        })
    }

    fn docker_manifest(&self, config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
        // Docker has no name for an image that is named by its digest alone.
        let tag = self.reference.tag();
        let name = tag.map(|tag| format!("{}/{}:{tag}", self.reference.domain(), self.reference.path()));
        json(&[DockerManifest {
            config: config.digest.blob_path(),
            repo_tags: name.into_iter().collect(),
            layers: layers.iter().map(|layer| layer.digest.blob_path()).collect(),
        }])
    }
}

/// Adds a document to the blobs and describes it.
fn add(blobs: &mut BTreeMap<Digest, Blob>, media_type: &str, bytes: Vec<u8>) -> Descriptor {
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    blobs.insert(digest.clone(), Blob { size, source: Source::Bytes(bytes) });
    Descriptor { media_type: media_type.to_owned(), digest, size, platform: None, annotations: Map::new() }
}

fn index(manifest: Descriptor) -> Index {
    Index { schema_version: 2, media_type: media_type::INDEX, manifests: vec![manifest] }
}

/// A reference with a digest is a promise that can be checked.
fn pinned(reference: &Reference, digest: &Digest) -> Result<(), BuildError> {
    if reference.digest().is_none_or(|pinned| pinned == digest.as_str()) {
        return Ok(());
    }
    Err(BuildError::Pinned { reference: reference.to_string(), digest: digest.clone() })
}
