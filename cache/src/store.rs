//! What every content store can do, whether containerd serves it or a folder is it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rustix::fs::{Mode, OFlags};

use crate::Digest;

/// A place for blobs with labels, leases against its garbage collector, and image records that name manifests.
///
/// All backends pass the same contract tests (`test/tests/contract.rs`). Every call is bounded in time: what is
/// [`StoreError::Unavailable`] has already been retried with jittered back-off.
#[async_trait]
pub trait ContentStore: Send + Sync {
    /// Says for a person which store this is, e.g. `containerd at /run/containerd/containerd.sock, namespace k8s.io`.
    fn describe(&self) -> String;

    /// Returns size and labels of a blob; `None` if it is not there.
    async fn info(&self, digest: &Digest) -> Result<Option<BlobInfo>, StoreError>;

    /// Reads a whole small blob and checks its digest.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::TooLarge`] above `limit` bytes, before anything is read;
    /// [`StoreError::Corrupt`] if the bytes are not those of the digest.
    async fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError>;

    /// Opens a blob as a read-only file that can be mapped: the store's own file where it can be reached,
    /// else a sealed memfd with a copy. The digest is NOT checked.
    async fn open(&self, digest: &Digest) -> Result<BlobFile, StoreError>;

    /// Takes a lease: what is written under it is not collected until it is released or `ttl` has passed.
    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Gives a lease back; one that is gone already is no error.
    async fn release(&self, lease: Lease) -> Result<(), StoreError>;

    /// Stores a blob. One that exists already is success: it is added to the lease and its labels are set one by one
    /// (its bytes are not compared; whoever must know opens and hashes them).
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the bytes are not those of the digest: then nothing is stored.
    async fn write(&self, lease: &Lease, blob: NewBlob<'_>) -> Result<(), StoreError>;

    /// Sets one label and touches no other; an empty `value` removes the key.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the blob; [`StoreError::LabelTooLong`] if key and value exceed 4096 bytes.
    async fn set_label(&self, digest: &Digest, key: &str, value: &str) -> Result<(), StoreError>;

    /// Deletes a blob and waits until its bytes are collected (in so far as nothing else keeps them); one that is
    /// gone already is no error.
    async fn delete(&self, digest: &Digest) -> Result<(), StoreError>;

    /// Lists all blobs with their labels, in one pass and however many there are. Those named by a digest that is not
    /// SHA-256 are passed over.
    async fn blobs(&self) -> Result<Vec<BlobInfo>, StoreError>;

    /// Lists all image records.
    async fn images(&self) -> Result<Vec<ImageRecord>, StoreError>;

    /// Returns the image record of that name, if there is one.
    async fn image(&self, name: &str) -> Result<Option<ImageRecord>, StoreError>;

    /// Sets one label of an image record and touches no other; an empty `value` removes the key.
    async fn set_image_label(&self, name: &str, key: &str, value: &str) -> Result<(), StoreError>;

    /// Tries to take the lock called `name`; `None` while somebody else holds it. The lock is free at once when its
    /// holder releases it, and within two seconds when it dies; a dead holder leaves nothing behind beyond an
    /// expiring lease, and who stops waiting for the answer nothing at all. Asking in vain is cheap: it writes nothing.
    async fn try_lock(&self, name: &str) -> Result<Option<Lock>, StoreError>;
}

/// Size and labels of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// What the blob is called.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// All labels, ours and others'.
    pub labels: BTreeMap<String, String>,
    /// When the store first had it.
    pub created: Option<SystemTime>,
}

/// A blob to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewBlob<'a> {
    /// What its bytes hash to; the store checks.
    pub digest: &'a Digest,
    /// Length in bytes.
    pub size: u64,
    /// The bytes, read from offset 0 by position (the descriptor's own offset is neither used nor moved).
    pub file: &'a File,
    /// Labels it shall bear.
    pub labels: &'a BTreeMap<String, String>,
}

/// A blob opened for reading and mapping.
#[derive(Debug)]
pub struct BlobFile {
    /// Read-only descriptor.
    pub file: File,
    /// Length in bytes.
    pub size: u64,
    /// Where the file lies; `None` for a memfd.
    pub path: Option<PathBuf>,
}

/// An image record: a name and the manifest or index that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Reference, e.g. `docker.io/library/demo:latest`.
    pub name: String,
    /// Digest of the manifest or index.
    pub target: Digest,
    /// Media type of the target.
    pub media_type: String,
    /// Labels of the record (not of the blob).
    pub labels: BTreeMap<String, String>,
}

/// A lease's id. Given back with [`ContentStore::release`]; dropping it leaves it to expire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a lease is held until it is released or expires"]
pub struct Lease(pub(crate) String);

impl Lease {
    /// Returns the id that the store knows it by.
    pub fn id(&self) -> &str {
        &self.0
    }
}

/// A lock that is held until it is released, this value is dropped, or the process dies.
///
/// Dropping it frees it too, but what has to be told to a daemon then happens in the background, and does not
/// happen if the tokio runtime ends first; the store cleans up by itself later.
#[must_use = "the lock is free as soon as this is dropped"]
pub struct Lock(pub(crate) Box<dyn Held>);

/// What a backend keeps for a lock; dropping it frees the lock.
#[async_trait]
pub(crate) trait Held: Send + Sync {
    /// Frees the lock and waits until nothing of it is left in the store.
    async fn release(self: Box<Self>);
}

impl Lock {
    /// Frees the lock and waits until nothing of it is left in the store.
    pub async fn release(self) {
        self.0.release().await;
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// The most bytes that containerd accepts for a label's key and value together.
const LABEL_LIMIT: usize = 4096;

/// Refuses a label that containerd would refuse, in every backend alike.
pub(crate) fn check_label(subject: &str, key: &str, value: &str) -> Result<(), StoreError> {
    if key.len() + value.len() <= LABEL_LIMIT {
        return Ok(());
    }
    let key = if key.len() > 64 { format!("{}…", key.chars().take(64).collect::<String>()) } else { key.to_owned() };
    Err(StoreError::LabelTooLong { subject: subject.to_owned(), key })
}

/// Opens a regular file for reading, never a link, a fifo or a device; returns its length too.
pub(crate) fn open_regular(path: &Path) -> std::io::Result<(File, u64)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata.len())) } else { Err(std::io::Error::other("not a regular file")) }
}

/// Makes the error of an operation on a file; `subject` names the file or blob.
pub(crate) fn io_error(action: &'static str, subject: impl fmt::Display) -> impl FnOnce(std::io::Error) -> StoreError {
    let subject = subject.to_string();
    move |source| StoreError::Io { action, subject, source }
}

/// Says what a content store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nobody answers at that address, or nothing is there.
    #[error("cannot reach {store}")]
    Connect {
        /// Which store.
        store: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A blob, image or lease does not exist.
    #[error("cannot find {subject}")]
    NotFound {
        /// What was asked for.
        subject: String,
    },
    /// A blob's bytes do not hash to its digest.
    #[error("cannot trust blob {digest}: its bytes hash to {actual}")]
    Corrupt {
        /// What the blob is called.
        digest: Digest,
        /// What its bytes hash to.
        actual: Digest,
    },
    /// A blob is larger than what its reader is ready to take.
    #[error("cannot read blob {digest}: it has {size} bytes, at most {limit} are accepted")]
    TooLarge {
        /// Which blob.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
        /// The most that is accepted, in bytes.
        limit: u64,
    },
    /// containerd limits key and value of a label together to 4096 bytes.
    #[error("cannot set label {key:?} of {subject}: key and value together exceed 4096 bytes")]
    LabelTooLong {
        /// Which blob or image.
        subject: String,
        /// The key (shortened if it is the key that is too long).
        key: String,
    },
    /// The store is busy or starting, and still was after the retries.
    #[error("cannot {action} {subject}: the store is unavailable")]
    Unavailable {
        /// What was attempted.
        action: &'static str,
        /// With which blob, image or lease.
        subject: String,
        /// The last answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store answered with another error.
    #[error("cannot {action} {subject}")]
    Remote {
        /// What was attempted.
        action: &'static str,
        /// With which blob, image or lease.
        subject: String,
        /// The gRPC answer, its code and message kept.
        #[source]
        source: Box<tonic::Status>,
    },
    /// A file of the store, or the file to be stored, cannot be read or written.
    #[error("cannot {action} {subject}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Which file or blob.
        subject: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store holds something that does not parse: an image layout's index, a digest.
    #[error("cannot understand {subject}")]
    Malformed {
        /// Which file or answer.
        subject: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
