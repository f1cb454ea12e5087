//! An image that is ready to be written.

use std::collections::BTreeMap;

use crate::layer::Source;
use prewasi_oci::Digest;

use crate::Reference;

/// The kind of manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A container image: has entrypoint, environment and labels; `ctr` and Docker run it.
    Image,
    /// A CNCF wasm artifact: one wasm layer with its imports and exports, and data beside it.
    Artifact,
}

/// An image or artifact whose documents are made. Its layers are read again when it is written.
#[derive(Debug)]
pub struct Image {
    pub(crate) reference: Reference,
    pub(crate) format: Format,
    pub(crate) os: String,
    pub(crate) digest: Digest,
    pub(crate) layer_count: usize,
    /// Seconds after 1970.
    pub(crate) mtime: u64,
    pub(crate) files: Vec<(&'static str, Vec<u8>)>,
    pub(crate) blobs: BTreeMap<Digest, Blob>,
}

#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) size: u64,
    pub(crate) source: Source,
}

impl Image {
    /// Returns the name under which containerd will list it.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Returns the format of the image.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the os of its platform.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// Returns the digest of its manifest, or of the index around it.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns how many layers it has.
    pub fn layer_count(&self) -> usize {
        self.layer_count
    }
}
