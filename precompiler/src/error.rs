//! Errors between an image's name and a program that is ready to run.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use prewasi_cache::StoreError;
use prewasi_engines::{CompileError, LoadError, TuningError, WasmError};
use prewasi_oci::annotation::MOUNT;
use prewasi_oci::{Digest, DigestError, MountPathError};

use crate::{OptionsError, visible};

/// Maximum number of files of an image that are mounted: each is a mount of the container.
pub(crate) const MAX_FILES: usize = 64;
/// Maximum size of all files of an image that are mounted, in bytes: all are hashed when the image is first run.
pub(crate) const MAX_BYTES: u64 = 16 << 30;

/// The reason why an image cannot be read or used. Every message names the image, and the blob at fault by its digest.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image record has that name.
    #[error("cannot find image {image}")]
    NotFound {
        /// The requested name.
        image: String,
    },
    /// The store failed.
    #[error("cannot read image {image}")]
    Store {
        /// Name of the image.
        image: String,
        /// The store's error.
        #[source]
        source: StoreError,
    },
    /// The record refers to a blob that is neither manifest nor index.
    #[error("cannot use image {image}: {digest} is neither a manifest nor an index but {media_type:?}")]
    NotAnImage {
        /// Name of the image.
        image: String,
        /// Digest of the record's target.
        digest: Digest,
        /// Media type of the record's target.
        media_type: String,
    },
    /// Indexes are nested too deeply.
    #[error("cannot use image {image}: its indexes are nested more than {limit} deep")]
    TooDeep {
        /// Name of the image.
        image: String,
        /// Maximum depth.
        limit: usize,
    },
    /// The index has no entry for wasm or this machine.
    #[error("cannot use image {image}: index {index} has no manifest for wasm or for this machine")]
    NoPlatform {
        /// Name of the image.
        image: String,
        /// Digest of the index.
        index: Digest,
    },
    /// The image has nothing for the requested platform.
    #[error("cannot use image {image}: {digest} has nothing for platform {wanted}")]
    OtherPlatform {
        /// Name of the image.
        image: String,
        /// Digest of the index or config at fault.
        digest: Digest,
        /// The requested platform.
        wanted: String,
    },
    /// A blob that the image needs was never pulled or has been removed.
    #[error("cannot use image {image}: {what} {digest} is not in the content store; pull the image again")]
    MissingBlob {
        /// Name of the image.
        image: String,
        /// Kind of the blob: manifest, config, layer.
        what: &'static str,
        /// Digest of the blob.
        digest: Digest,
    },
    /// A document does not parse.
    #[error("cannot use image {image}: {what} {digest} is malformed")]
    Malformed {
        /// Name of the image.
        image: String,
        /// Kind of the document.
        what: &'static str,
        /// Digest of the document.
        digest: Digest,
        /// The parser's error, with the position.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A digest has another algorithm, or is malformed.
    #[error("cannot use image {image}")]
    Digest {
        /// Name of the image.
        image: String,
        /// The digest and its fault.
        #[source]
        source: DigestError,
    },
    /// A layer that is neither wasm nor a file system.
    #[error("cannot use image {image}: layer {layer} has the unknown type {media_type:?}")]
    UnknownLayer {
        /// Name of the image.
        image: String,
        /// Digest of the layer.
        layer: String,
        /// Media type of the layer.
        media_type: String,
    },
    /// The config is one for wasm, and no layer could hold wasm.
    #[error("cannot use image {image}: its config says {platform}, but it has no layer with wasm")]
    NoWasm {
        /// Name of the image.
        image: String,
        /// `os/architecture` of the config.
        platform: String,
    },
    /// There is a wasm layer, and the config names another platform.
    #[error(
        "cannot use image {image}: layer {layer} is wasm, but the config says {platform}; pack it with architecture wasm"
    )]
    ConfigNotWasm {
        /// Name of the image.
        image: String,
        /// Digest of the wasm layer.
        layer: Digest,
        /// `os/architecture` of the config.
        platform: String,
    },
    /// There are several wasm layers, and none has the entrypoint as its title.
    #[error("cannot choose a wasm layer of image {image}: entrypoint {entrypoint:?} is none of {titles}")]
    Ambiguous {
        /// Name of the image.
        image: String,
        /// The container's entrypoint.
        entrypoint: String,
        /// The titles (or digests) of the layers.
        titles: String,
    },
    /// A layer of a wasm image is neither wasm nor a file that can be mounted.
    #[error("cannot mount layer {layer} of image {image}")]
    Data {
        /// Name of the image.
        image: String,
        /// Digest of the layer.
        layer: Digest,
        /// The reason, with advice.
        #[source]
        source: DataError,
    },
    /// The config names an import that the engine does not provide.
    #[error(
        "cannot run image {image}: its config names the import {import:?}, which {engine} does not provide; build the \
         component without it, or leave it out of the config's `component.imports` if it has types alone"
    )]
    Unprovided {
        /// Name of the image.
        image: String,
        /// The interface, as the config spells it.
        import: String,
        /// Name of the engine.
        engine: &'static str,
    },
}

/// The reason why an image, or a file in one, cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The configured options cannot be used.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The engine does not support the options.
    #[error("cannot run {subject} with its options")]
    Tuning {
        /// The image or file.
        subject: String,
        /// The unsupported choice.
        #[source]
        source: TuningError,
    },
    /// The image itself is at fault, or cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store failed.
    #[error("cannot ask containerd")]
    Store(#[from] StoreError),
    /// The bytes are not wasm.
    #[error("cannot run {subject}")]
    NotWasm {
        /// The layer with its image, or the file.
        subject: String,
        /// The actual format.
        #[source]
        source: WasmError,
    },
    /// The wasm cannot be compiled; its author has to change it.
    #[error("cannot compile {subject}")]
    Compile {
        /// The layer with its image, or the file.
        subject: String,
        /// The fault in the wasm.
        #[source]
        source: CompileError,
    },
    /// The compile worker neither compiled nor refused the wasm.
    #[error("cannot compile {subject}")]
    Worker {
        /// The layer with its image, or the file.
        subject: String,
        /// The worker's end.
        #[source]
        source: WorkerError,
    },
    /// Code that has just been compiled cannot be loaded.
    #[error("cannot load {subject}")]
    Load {
        /// The layer with its image, or the file.
        subject: String,
        /// The engine's error.
        #[source]
        source: LoadError,
    },
    /// A file in a container's root cannot be read.
    #[error("cannot read {subject}")]
    Io {
        /// The file.
        subject: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

impl PrepareError {
    /// Makes the error of an artifact that could not be stored, for callers that only prepare images.
    pub(crate) fn unstored(layer: &Digest) -> Self {
        let source = std::io::Error::other("the content store failed, as the warning above says");
        Self::Io { subject: format!("back the native code of layer {layer}"), source }
    }

    /// Returns whether the image is at fault, so that its author or user must act, rather than the node.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Image(error) => !matches!(error, ImageError::Store { .. }),
            Self::Options(_) | Self::Tuning { .. } => true,
            Self::NotWasm { .. } | Self::Compile { .. } | Self::Load { .. } => true,
            Self::Worker { source, .. } => !matches!(source, WorkerError::Io { .. }),
            Self::Store(_) | Self::Io { .. } => false,
        }
    }
}

/// The reason why a layer cannot be mounted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// The layer has no mount path.
    #[error(
        "it is {media_type}, which is no wasm, and has no annotation {MOUNT} that says where to mount it; \
         pack it with `oci-tar-builder --data FILE=/PATH`"
    )]
    NoPath {
        /// Media type of the layer.
        media_type: String,
    },
    /// The layer is an archive.
    #[error("it is an archive ({media_type}), and only single files can be mounted; pack each of its files as a layer")]
    Archive {
        /// Media type of the layer.
        media_type: String,
    },
    /// No file can be mounted at the path.
    #[error(
        "cannot mount it at {path:?}, the path in its annotation {MOUNT}: {reason}; use an absolute path, such as /data/model.bin"
    )]
    Path {
        /// The path in the annotation.
        path: String,
        /// The fault of the path.
        reason: MountPathError,
    },
    /// The paths of two layers are equal, or one lies below the other.
    #[error("its path {} conflicts with {}, the path of another layer; give each layer a path of its own", path.display(), other.display())]
    Overlap {
        /// The layer's path.
        path: PathBuf,
        /// The other layer's path.
        other: PathBuf,
    },
    /// There are too many layers to mount.
    #[error("the image has {count} layers of data; the most is {MAX_FILES}")]
    TooMany {
        /// Number of the layers.
        count: usize,
    },
    /// The layers to mount are too large together.
    #[error("the image's layers of data are too large; the most is {} GiB for all together", MAX_BYTES >> 30)]
    TooLarge,
    /// The blob's length differs from the manifest's.
    #[error("it has {actual} bytes, and the manifest says {claimed}; pack the image again")]
    Size {
        /// The blob's length in bytes.
        actual: u64,
        /// The manifest's length in bytes.
        claimed: u64,
    },
    /// The blob's bytes do not match its digest.
    #[error("its bytes were changed, they hash to {actual}; remove the image and pull it again")]
    Corrupt {
        /// Digest of the bytes.
        actual: Digest,
    },
}

/// The end of a compile worker that neither compiled nor refused.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It took too long.
    #[error("the compile was stopped after {} s; raise `compile_timeout` if the program is meant to be that large", limit.as_secs())]
    Timeout {
        /// The limit, wall clock.
        limit: Duration,
    },
    /// It used up its processor time.
    #[error("the compile was stopped after {} s of processor time; raise `compile_cpu_time` if the program is meant to be that large", limit.as_secs())]
    CpuTime {
        /// The limit.
        limit: Duration,
    },
    /// It needed more memory than it may have.
    #[error("the compile needed more than {} MiB of memory, even on one core; raise `compile_memory` if the program is meant to be that large", limit >> 20)]
    OutOfMemory {
        /// The limit in bytes.
        limit: u64,
    },
    /// The worker died.
    #[error("the compiler crashed ({status}): {message}")]
    Crash {
        /// Signal or exit code.
        status: String,
        /// The end of its standard error.
        message: String,
    },
    /// The worker cannot be started or communicated with.
    #[error("cannot {action} the compile worker")]
    Io {
        /// The failed operation, as a verb.
        action: &'static str,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

/// Joins an error and its causes to one line. A cause that the text so far already ends with is not repeated.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.ends_with(&told) {
            text = format!("{text}: {told}");
        }
        next = cause.source();
    }
    text
}

/// Prints an error, its causes and the hint to standard error, one line each.
pub(crate) fn report(error: &dyn Error, hint: Option<&str>) {
    let mut text = format!("error: {error}\n");
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!("caused by: {cause}\n"));
        next = cause.source();
    }
    if let Some(hint) = hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // Without standard error there is no way to report it.
    let _ = std::io::stderr().write_all(visible(&text).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each cause is printed once.
    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Repeats(#[source] std::io::Error);
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read it")]
        struct Adds(#[source] Repeats);
        assert_eq!(chain(&Repeats(std::io::Error::other("inner"))), "outer: inner");
        assert_eq!(chain(&Adds(Repeats(std::io::Error::other("inner")))), "cannot read it: outer: inner");
    }
}
