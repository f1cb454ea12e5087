//! What can go wrong between an image's name and a program that is ready to run.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use prewasi_cache::StoreError;
use prewasi_engines::{CompileError, LoadError, TuningError, WasmError};
use prewasi_oci::annotation::MOUNT;
use prewasi_oci::{Digest, DigestError, MountPathError};

use crate::{OptionsError, visible};

/// At most so many files of an image are mounted: each is a mount of the container.
pub(crate) const MAX_FILES: usize = 64;
/// At most so many bytes of an image are mounted: all of it is hashed when the image is first run.
pub(crate) const MAX_BYTES: u64 = 16 << 30;

/// Says why an image cannot be understood. Every message names the image, and the blob at fault by its digest.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image record has that name.
    #[error("cannot find image {image}")]
    NotFound {
        /// As it was asked for.
        image: String,
    },
    /// The store cannot be asked.
    #[error("cannot read image {image}")]
    Store {
        /// Which image.
        image: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The record points to something that is neither manifest nor index.
    #[error("cannot use image {image}: {digest} is neither a manifest nor an index but {media_type:?}")]
    NotAnImage {
        /// Which image.
        image: String,
        /// What its record points to.
        digest: Digest,
        /// The type that the record gives.
        media_type: String,
    },
    /// Indexes in indexes.
    #[error("cannot use image {image}: its indexes are nested more than {limit} deep")]
    TooDeep {
        /// Which image.
        image: String,
        /// The most that is followed.
        limit: usize,
    },
    /// An index without an entry for wasm or this machine.
    #[error("cannot use image {image}: index {index} has no manifest for wasm or for this machine")]
    NoPlatform {
        /// Which image.
        image: String,
        /// The index.
        index: Digest,
    },
    /// Nothing for the platform that was asked for.
    #[error("cannot use image {image}: {digest} has nothing for platform {wanted}")]
    OtherPlatform {
        /// Which image.
        image: String,
        /// The index or config at fault.
        digest: Digest,
        /// The platform that was asked for.
        wanted: String,
    },
    /// A blob that the image needs was never pulled or has been removed.
    #[error("cannot use image {image}: {what} {digest} is not in the content store; pull the image again")]
    MissingBlob {
        /// Which image.
        image: String,
        /// What the blob is: manifest, config, layer.
        what: &'static str,
        /// Its digest.
        digest: Digest,
    },
    /// A document does not parse.
    #[error("cannot use image {image}: {what} {digest} is malformed")]
    Malformed {
        /// Which image.
        image: String,
        /// What the blob is.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// Where and why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A digest of another algorithm, or none at all.
    #[error("cannot use image {image}")]
    Digest {
        /// Which image.
        image: String,
        /// The digest and what is wrong with it.
        #[source]
        source: DigestError,
    },
    /// A layer that is neither wasm nor a file system.
    #[error("cannot use image {image}: layer {layer} has the unknown type {media_type:?}")]
    UnknownLayer {
        /// Which image.
        image: String,
        /// The layer's digest.
        layer: String,
        /// Its type.
        media_type: String,
    },
    /// The config promises wasm, and there is no layer at all that could hold it.
    #[error("cannot use image {image}: its config says {platform}, but it has no layer with wasm")]
    NoWasm {
        /// Which image.
        image: String,
        /// `os/architecture` of the config.
        platform: String,
    },
    /// There is a wasm layer, and the config says that the image is for something else.
    #[error(
        "cannot use image {image}: layer {layer} is wasm, but the config says {platform}; pack it with architecture wasm"
    )]
    ConfigNotWasm {
        /// Which image.
        image: String,
        /// The wasm layer.
        layer: Digest,
        /// `os/architecture` of the config.
        platform: String,
    },
    /// Several wasm layers, none of them titled like the entrypoint.
    #[error("cannot choose a wasm layer of image {image}: entrypoint {entrypoint:?} is none of {titles}")]
    Ambiguous {
        /// Which image.
        image: String,
        /// What the container shall run.
        entrypoint: String,
        /// The titles (or digests) of the layers.
        titles: String,
    },
    /// A layer of a wasm image is neither wasm nor a file that can be mounted.
    #[error("cannot mount layer {layer} of image {image}")]
    Data {
        /// Which image.
        image: String,
        /// The layer's digest.
        layer: Digest,
        /// Why, and what to do.
        #[source]
        source: DataError,
    },
    /// The config says that the wasm wants what the engine does not give.
    #[error(
        "cannot run image {image}: its config names the import {import:?}, which {engine} does not provide; build the \
         component without it, or leave it out of the config's `component.imports` if it has types alone"
    )]
    Unprovided {
        /// Which image.
        image: String,
        /// The interface, as the config names it.
        import: String,
        /// Name of the engine.
        engine: &'static str,
    },
}

/// Says why an image, or a file in one, cannot be made ready to run.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// What is configured cannot be used.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// An engine cannot compile or load as the options say.
    #[error("cannot run {subject} with its options")]
    Tuning {
        /// Which image or file.
        subject: String,
        /// What cannot be had.
        #[source]
        source: TuningError,
    },
    /// The image itself is at fault, or cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// containerd cannot be asked.
    #[error("cannot ask containerd")]
    Store(#[from] StoreError),
    /// The bytes are not what may be run.
    #[error("cannot run {subject}")]
    NotWasm {
        /// Which layer of which image.
        subject: String,
        /// What the bytes are instead.
        #[source]
        source: WasmError,
    },
    /// The wasm cannot be compiled; its author has to change it.
    #[error("cannot compile {subject}")]
    Compile {
        /// Which layer of which image.
        subject: String,
        /// What is at fault.
        #[source]
        source: CompileError,
    },
    /// The compile did not come to an end of its own.
    #[error("cannot compile {subject}")]
    Worker {
        /// Which layer of which image.
        subject: String,
        /// What happened to the worker.
        #[source]
        source: WorkerError,
    },
    /// Code that has just been compiled cannot be loaded.
    #[error("cannot load {subject}")]
    Load {
        /// Which layer of which image.
        subject: String,
        /// Why.
        #[source]
        source: LoadError,
    },
    /// A file in a container's root cannot be read.
    #[error("cannot read {subject}")]
    Io {
        /// Which file.
        subject: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl PrepareError {
    /// An artifact that could not be stored is of no use to whoever prepares images for others.
    pub(crate) fn unstored(layer: &Digest) -> Self {
        let source = std::io::Error::other("the content store failed, as the warning above says");
        Self::Io { subject: format!("back the native code of layer {layer}"), source }
    }

    /// Says whether the image is at fault (its author or user must act), rather than the node.
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

/// Says why a layer cannot be mounted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// Nothing says where.
    #[error(
        "it is {media_type}, which is no wasm, and has no annotation {MOUNT} that says where to mount it; \
         pack it with `oci-tar-builder --data FILE=/PATH`"
    )]
    NoPath {
        /// Its type.
        media_type: String,
    },
    /// It is an archive.
    #[error("it is an archive ({media_type}), and only single files can be mounted; pack each of its files as a layer")]
    Archive {
        /// Its type.
        media_type: String,
    },
    /// The path is none that a file can be mounted at.
    #[error(
        "cannot mount it at {path:?}, the path in its annotation {MOUNT}: {reason}; use an absolute path, such as /data/model.bin"
    )]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: MountPathError,
    },
    /// Two layers are in each other's way.
    #[error("its path {} is in the way of {}, where another layer is mounted; give each a path of its own", path.display(), other.display())]
    Overlap {
        /// The path.
        path: PathBuf,
        /// The other one's.
        other: PathBuf,
    },
    /// There are too many.
    #[error("the image has {count} layers of data, at most {MAX_FILES} are mounted")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// They are too large.
    #[error("the image's layers of data are too large: at most {} GiB are mounted, all together", MAX_BYTES >> 30)]
    TooLarge,
    /// The blob has another length than the manifest says.
    #[error("it has {actual} bytes, and the manifest says {claimed}; pack the image again")]
    Size {
        /// What the store has.
        actual: u64,
        /// What the manifest says.
        claimed: u64,
    },
    /// The blob was changed.
    #[error("its bytes were changed, they hash to {actual}; remove the image and pull it again")]
    Corrupt {
        /// What the bytes hash to.
        actual: Digest,
    },
}

/// Says how a compile worker ended that neither compiled nor refused.
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
    #[error("the compile needed more than {} MiB of memory, on one core as well; raise `compile_memory` if the program is meant to be that large", limit >> 20)]
    OutOfMemory {
        /// The limit in bytes.
        limit: u64,
    },
    /// It died.
    #[error("the compiler crashed ({status}): {message}")]
    Crash {
        /// Signal or exit code.
        status: String,
        /// The last it said.
        message: String,
    },
    /// It cannot be started or talked to.
    #[error("cannot {action} the compile worker")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Joins an error and its causes to one line. A cause that the text before it already ends with is not repeated.
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

/// Prints an error, its causes and what can be done about it to standard error, a line each.
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
    // If standard error is gone nobody can be told.
    let _ = std::io::stderr().write_all(visible(&text).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each cause is told once.
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
