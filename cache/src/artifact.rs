//! Finds and stores artifacts by labels on the blob that they were made from.
//!
//! The order of the steps of [`ArtifactCache::store`] is a contract: if the process dies between two of them, the next look-up reports an
//! ordinary miss.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::stamp::Stamps;
use crate::store::io_error;
use crate::whole::whole;
use crate::{BlobFile, BlobInfo, ContentStore, Digest, Lease, NewBlob, StoreError};
use crate::{fault, labels};

mod label;

pub use label::{AnchorLabel, Claim};

/// Lifetime of the lease of an interrupted store, after which containerd may collect its remains.
const LEASE: Duration = Duration::from_secs(600);

/// The complete identity of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ArtifactKey {
    /// Digest of the wasm: of the layer, or of a file inside an ordinary image.
    pub source: Digest,
    /// The blob with the labels: the layer itself, or for a file the manifest of its image.
    pub anchor: Digest,
    /// Name of the engine, e.g. `wasmtime`.
    pub engine: String,
    /// `<engine version>-<first 12 hex digits of the fingerprint>`.
    pub version: String,
    /// Full fingerprint, 64 hex digits.
    pub fingerprint: String,
}

/// The result of a look-up. A miss is a value, not an error.
#[derive(Debug)]
pub enum Lookup {
    /// The artifact exists, and its labels and its digest have been checked.
    Hit(Artifact),
    /// The artifact must be compiled.
    Miss(MissReason),
}

/// The reason for a miss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissReason {
    /// No label names an artifact.
    Absent,
    /// A label names a blob that does not exist, or its value is no digest.
    Dangling,
    /// The blob does not have the labels of an artifact of this key.
    Foreign,
    /// The blob's bytes hash to this digest instead of its own.
    Corrupt(Digest),
}

/// An artifact that was found or has just been stored: opened, its digest verified.
#[derive(Debug)]
pub struct Artifact {
    /// Digest of the artifact.
    pub digest: Digest,
    /// The open file with the bytes.
    pub blob: BlobFile,
}

impl ArtifactKey {
    /// Returns the key of the artifact's own label with the full fingerprint, which image records have too. Engine and version are in the
    /// key, so different versions do not overwrite each other.
    pub fn label(&self) -> String {
        self.on_anchor().plain()
    }

    /// Returns the key of the anchor's label that names the artifact.
    pub fn anchor_label(&self) -> String {
        self.on_anchor().leading()
    }

    /// Returns the key of the anchor's label that keeps the artifact from containerd's garbage collector.
    pub fn keep_label(&self) -> String {
        self.on_anchor().keeping()
    }

    /// Sources that share an anchor are distinguished by the first digits of their digests.
    fn on_anchor(&self) -> AnchorLabel {
        let source = (self.anchor != self.source).then(|| self.source.short().to_owned());
        AnchorLabel { engine: self.engine.clone(), version: self.version.clone(), source }
    }

    /// Returns whether the artifact's own labels name this source and this fingerprint.
    fn is_claimed_by(&self, artifact: &BlobInfo) -> bool {
        let names_source = |label: &str| artifact.labels.get(label).is_some_and(|value| value == self.source.as_str());
        artifact.labels.get(&self.label()) == Some(&self.fingerprint)
            && (names_source(labels::SOURCE) || names_source(&label::further_source(&self.source)))
    }
}

/// Looks up and stores artifacts.
#[derive(Clone)]
pub struct ArtifactCache {
    store: Arc<dyn ContentStore>,
    stamps: Stamps,
}

impl ArtifactCache {
    /// Keeps artifacts in `store`, and the stamps of verified ones in the folder `stamps` (mode 0700, created when needed).
    pub fn new(store: Arc<dyn ContentStore>, stamps: PathBuf) -> Self {
        Self { store, stamps: Stamps::new(stamps) }
    }

    /// Looks up the artifact of `key`, verifies it, and opens it.
    ///
    /// # Errors
    /// Only errors of the store itself: an unusable artifact is a [`Lookup::Miss`].
    pub async fn lookup(&self, key: &ArtifactKey) -> Result<Lookup, StoreError> {
        let Some(anchor) = self.store.info(&key.anchor).await? else { return Ok(Lookup::Miss(MissReason::Absent)) };
        let Some(named) = anchor.labels.get(&key.anchor_label()) else { return Ok(Lookup::Miss(MissReason::Absent)) };
        let Ok(digest) = named.parse::<Digest>() else { return Ok(Lookup::Miss(MissReason::Dangling)) };
        let Some(artifact) = self.store.info(&digest).await? else { return Ok(Lookup::Miss(MissReason::Dangling)) };
        if !key.is_claimed_by(&artifact) {
            return Ok(Lookup::Miss(MissReason::Foreign));
        }
        match self.open_verified(&digest).await {
            Ok(blob) => Ok(Lookup::Hit(Artifact { digest, blob })),
            Err(StoreError::Corrupt { digest, .. }) => Ok(Lookup::Miss(MissReason::Corrupt(digest))),
            Err(StoreError::NotFound { .. }) => Ok(Lookup::Miss(MissReason::Dangling)),
            Err(error) => Err(error),
        }
    }

    /// Stores the `size` bytes of `file` as the artifact of `key`, with `details` as further labels, and opens the stored blob. A damaged
    /// blob of the same digest is replaced. The store runs to its end even if the caller is dropped, so that no lease stays behind.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the anchor. [`StoreError::Corrupt`] if a damaged blob of the same digest cannot be removed,
    /// because another namespace keeps it. Else the errors of [`ContentStore`]'s methods. After any error the caller still has the bytes
    /// and can run from them.
    pub async fn store(
        &self,
        key: &ArtifactKey,
        file: &File,
        size: u64,
        details: &BTreeMap<String, String>,
    ) -> Result<Artifact, StoreError> {
        let reading = || io_error("hash the artifact of", &key.source);
        let digest = Digest::of_file(file, size).map_err(reading())?;
        let file = file.try_clone().map_err(reading())?;
        let (cache, key, details) = (self.clone(), key.clone(), details.clone());
        whole(async move {
            let lease = cache.store.lease(LEASE).await?;
            fault::point("leased");
            let stored = cache.store_under(&lease, &key, &digest, &file, size, &details).await;
            fault::point("checked");
            if let Err(error) = cache.store.release(lease).await {
                tracing::debug!(%error, "a lease stays until it expires");
            }
            fault::point("released");
            stored
        })
        .await
    }

    async fn store_under(
        &self,
        lease: &Lease,
        key: &ArtifactKey,
        digest: &Digest,
        file: &File,
        size: u64,
        details: &BTreeMap<String, String>,
    ) -> Result<Artifact, StoreError> {
        let labels = self.labels(key, digest, details).await?;
        let blob = NewBlob { digest, size, file, labels: &labels };
        self.store.write(lease, blob).await?;
        fault::point("written");
        self.repair(lease, blob).await?;
        self.label_anchor(key, digest).await?;
        self.check(key, digest).await
    }

    /// Returns the labels that mark a blob as the artifact of `key`.
    async fn labels(
        &self,
        key: &ArtifactKey,
        digest: &Digest,
        details: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, StoreError> {
        let mut labels = details.clone();
        labels.insert(key.label(), key.fingerprint.clone());
        let existing = self.store.info(digest).await?;
        let other =
            existing.and_then(|info| info.labels.get(labels::SOURCE).filter(|s| *s != key.source.as_str()).cloned());
        let source_label = if other.is_some() { label::further_source(&key.source) } else { labels::SOURCE.to_owned() };
        labels.insert(source_label, key.source.to_string());
        Ok(labels)
    }

    /// Verifies the stored bytes, and replaces them if they are damaged. A write leaves an existing blob as it is, even if its file was
    /// damaged meanwhile.
    async fn repair(&self, lease: &Lease, blob: NewBlob<'_>) -> Result<(), StoreError> {
        match self.open_verified(blob.digest).await {
            Err(StoreError::Corrupt { .. }) => {}
            answer => return answer.map(drop),
        }
        self.store.delete(blob.digest).await?;
        self.store.write(lease, blob).await?;
        self.open_verified(blob.digest).await.map(drop)
    }

    /// Sets the label that keeps the artifact, then the label that leads to it: in between a look-up reports a miss.
    async fn label_anchor(&self, key: &ArtifactKey, digest: &Digest) -> Result<(), StoreError> {
        self.store.set_label(&key.anchor, &key.keep_label(), digest.as_str()).await?;
        fault::point("kept");
        self.store.set_label(&key.anchor, &key.anchor_label(), digest.as_str()).await?;
        fault::point("labelled");
        Ok(())
    }

    /// Looks the artifact up as the next start will.
    async fn check(&self, key: &ArtifactKey, digest: &Digest) -> Result<Artifact, StoreError> {
        match self.lookup(key).await? {
            Lookup::Hit(artifact) => Ok(artifact),
            Lookup::Miss(reason) => {
                let subject = format!("artifact {digest} of {} just stored ({reason:?})", key.source);
                Err(StoreError::NotFound { subject })
            }
        }
    }

    /// Opens a blob of any kind and verifies its digest: by its stamp, else by hashing.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the bytes do not match the digest; [`StoreError::NotFound`] without the blob. Else the errors of
    /// [`ContentStore::open`].
    pub async fn open_verified(&self, digest: &Digest) -> Result<BlobFile, StoreError> {
        let blob = self.store.open(digest).await?;
        match self.stamps.verify(digest, &blob).await.map_err(io_error("verify blob", digest))? {
            None => Ok(blob),
            Some(actual) => Err(StoreError::Corrupt { digest: digest.clone(), actual }),
        }
    }
}

#[cfg(test)]
mod tests;
