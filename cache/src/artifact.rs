//! Finding and keeping artifacts by labels on the blob that they were made from.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::{BlobFile, ContentStore, Digest, StoreError};

/// Everything that says which artifact is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ArtifactKey {
    /// What was compiled: the layer, or a file inside an ordinary image.
    pub source: Digest,
    /// The blob that bears the labels: the layer itself, or the manifest of the image that the file lies in.
    pub anchor: Digest,
    /// Name of the engine, e.g. `wasmtime`.
    pub engine: String,
    /// `<engine version>-<first 12 hex digits of the fingerprint>`.
    pub version: String,
    /// Full fingerprint, 64 hex digits.
    pub fingerprint: String,
}

/// The answer to a look-up. A miss is a value, not an error.
#[derive(Debug)]
pub enum Lookup {
    /// The artifact is there and may be trusted as far as a store can tell.
    Hit(Artifact),
    /// It must be made.
    Miss(MissReason),
}

/// Says why there is no artifact to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissReason {
    /// No label names one.
    Absent,
    /// A label names a blob that is not there, or is no digest at all.
    Dangling,
    /// The blob does not bear the labels that would make it ours.
    Foreign,
    /// Its bytes do not hash to its digest.
    Corrupt(Digest),
}

/// An artifact that was found or has just been stored: opened, its digest checked.
#[derive(Debug)]
pub struct Artifact {
    /// Digest of the artifact.
    pub digest: Digest,
    /// The opened bytes.
    pub blob: BlobFile,
}

/// Looks up and stores artifacts.
pub struct ArtifactCache {}
