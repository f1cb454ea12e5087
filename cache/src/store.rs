//! The interface of every content store, with two backends: containerd and an image layout folder.

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
/// All backends pass the same contract tests (`test/tests/contract.rs`). Every call has a time limit. Calls are retried with jittered
/// back-off before they fail with [`StoreError::Unavailable`].
///
/// Besides the errors that a method lists, each method of a containerd store can fail with [`StoreError::Unavailable`] or
/// [`StoreError::Remote`]. Each method of a layout can fail with [`StoreError::Io`], or with [`StoreError::Malformed`] if its index or a
/// label file does not parse. A layout whose lock another process keeps is [`StoreError::Unavailable`].
#[async_trait]
pub trait ContentStore: Send + Sync {
    /// Returns the store's name for people, e.g. `containerd at /run/containerd/containerd.sock, namespace k8s.io`.
    fn describe(&self) -> String;

    /// Returns size and labels of a blob; `None` if it does not exist.
    ///
    /// # Errors
    /// Only those of every method, see [`ContentStore`].
    async fn info(&self, digest: &Digest) -> Result<Option<BlobInfo>, StoreError>;

    /// Reads a whole small blob and checks its digest.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::TooLarge`] above `limit` bytes, before anything is read; [`StoreError::Corrupt`] if the
    /// bytes do not match the digest.
    async fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError>;

    /// Opens a blob as a read-only file that can be mapped. It is the store's own file if this process can open it, else a sealed memfd
    /// with a copy. The digest is NOT checked.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the blob; [`StoreError::Io`] if the copy cannot be made; [`StoreError::Corrupt`] if containerd
    /// sends fewer bytes than the blob has.
    async fn open(&self, digest: &Digest) -> Result<BlobFile, StoreError>;

    /// Takes a lease: blobs that are written under it are not collected until it is released or `ttl` has passed.
    ///
    /// # Errors
    /// Only those of every method, see [`ContentStore`].
    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Releases a lease. A lease that no longer exists is no error.
    ///
    /// # Errors
    /// Only those of every method, see [`ContentStore`].
    async fn release(&self, lease: Lease) -> Result<(), StoreError>;

    /// Stores a blob. An existing blob counts as success: it is added to the lease, and its labels are set one by one. Its bytes are not
    /// compared; a caller that depends on them opens the blob and hashes it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the bytes do not match the digest; nothing is stored then. [`StoreError::LabelTooLong`] for one of the
    /// labels; [`StoreError::Io`] if `blob.file` cannot be read.
    async fn write(&self, lease: &Lease, blob: NewBlob<'_>) -> Result<(), StoreError>;

    /// Sets one label and leaves all others as they are; an empty `value` removes the key.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the blob; [`StoreError::LabelTooLong`] if key and value together exceed 4096 bytes.
    async fn set_label(&self, digest: &Digest, key: &str, value: &str) -> Result<(), StoreError>;

    /// Deletes a blob and waits until its bytes are collected, unless another object keeps them. A missing blob is no error.
    ///
    /// # Errors
    /// Only those of every method, see [`ContentStore`].
    async fn delete(&self, digest: &Digest) -> Result<(), StoreError>;

    /// Lists all blobs with their labels, in one pass and without a limit. Blobs whose digest is not SHA-256 are skipped.
    ///
    /// # Errors
    /// Only those of every method, see [`ContentStore`].
    async fn blobs(&self) -> Result<Vec<BlobInfo>, StoreError>;

    /// Lists all image records.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] if the target of a record is no digest.
    async fn images(&self) -> Result<Vec<ImageRecord>, StoreError>;

    /// Returns the image record of that name; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] if the record's target is no digest.
    async fn image(&self, name: &str) -> Result<Option<ImageRecord>, StoreError>;

    /// Sets one label of an image record and leaves all others as they are; an empty `value` removes the key.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the image; [`StoreError::LabelTooLong`] if key and value together exceed 4096 bytes.
    async fn set_image_label(&self, name: &str, key: &str, value: &str) -> Result<(), StoreError>;

    /// Tries to take the lock called `name`; `None` while another holder has it. The lock is free at once after a release, and within two
    /// seconds after its holder's death. A dead holder leaves at most a lease that expires; a caller that stops waiting leaves nothing. A
    /// failed attempt is cheap: it writes nothing.
    ///
    /// # Errors
    /// Only those of every method, see [`ContentStore`].
    async fn try_lock(&self, name: &str) -> Result<Option<Lock>, StoreError>;
}

/// Size and labels of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Digest of the blob.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// All labels, also those of other programs.
    pub labels: BTreeMap<String, String>,
    /// The time when the store first had it, if known. In a layout: the file's modification time.
    pub created: Option<SystemTime>,
}

/// A blob to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewBlob<'a> {
    /// Digest of the bytes; the store checks it.
    pub digest: &'a Digest,
    /// Length in bytes.
    pub size: u64,
    /// The bytes, read from offset 0 by position (the descriptor's own offset is neither used nor changed).
    pub file: &'a File,
    /// Labels that the blob gets.
    pub labels: &'a BTreeMap<String, String>,
}

/// A blob opened for reading and mapping.
#[derive(Debug)]
pub struct BlobFile {
    /// Read-only descriptor.
    pub file: File,
    /// Length in bytes.
    pub size: u64,
    /// Path of the file; `None` for a memfd.
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

/// A lease's id. [`ContentStore::release`] ends the lease; a dropped value leaves it to expire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a lease is held until it is released or expires"]
pub struct Lease(pub(crate) String);

impl Lease {
    /// Returns the store's id of the lease.
    pub fn id(&self) -> &str {
        &self.0
    }
}

/// A lock that is held until it is released, this value is dropped, or the process dies.
///
/// A drop frees the lock too, but messages to a daemon are then sent in the background. They are lost if the tokio runtime ends first;
/// the store cleans up by itself later.
#[must_use = "the lock is free as soon as this is dropped"]
pub struct Lock(pub(crate) Box<dyn Held>);

/// A backend's part of a lock; dropping it frees the lock.
#[async_trait]
pub(crate) trait Held: Send + Sync {
    /// Frees the lock and waits until the store has no trace of it.
    async fn release(self: Box<Self>);
}

impl Lock {
    /// Frees the lock and waits until the store has no trace of it.
    pub async fn release(self) {
        self.0.release().await;
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// containerd's limit for a label's key and value together, in bytes.
const LABEL_LIMIT: usize = 4096;

/// Refuses, in every backend, a label that containerd would refuse.
pub(crate) fn check_label(subject: &str, key: &str, value: &str) -> Result<(), StoreError> {
    if key.len() + value.len() <= LABEL_LIMIT {
        return Ok(());
    }
    let key = if key.len() > 64 { format!("{}…", key.chars().take(64).collect::<String>()) } else { key.to_owned() };
    Err(StoreError::LabelTooLong { subject: subject.to_owned(), key })
}

/// Opens a regular file for reading, never a link, a fifo or a device. Also returns its length.
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

/// The reason why an operation of a content store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No process listens at that address, or the folder is no store.
    #[error("cannot reach {store}")]
    Connect {
        /// Name of the store.
        store: String,
        /// The reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A blob, image or lease does not exist.
    #[error("cannot find {subject}")]
    NotFound {
        /// The object that was requested.
        subject: String,
    },
    /// A blob's bytes do not hash to its digest.
    #[error("cannot trust blob {digest}: its bytes hash to {actual}")]
    Corrupt {
        /// Digest that the blob should have.
        digest: Digest,
        /// Digest of its bytes.
        actual: Digest,
    },
    /// A blob is larger than its reader accepts.
    #[error("cannot read blob {digest}: it has {size} bytes, at most {limit} are accepted")]
    TooLarge {
        /// Digest of the blob.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
        /// The reader's limit, in bytes.
        limit: u64,
    },
    /// Key and value of a label exceed containerd's limit of 4096 bytes together.
    #[error("cannot set label {key:?} of {subject}: key and value together exceed 4096 bytes")]
    LabelTooLong {
        /// The blob or image.
        subject: String,
        /// The key, shortened if the key itself is too long.
        key: String,
    },
    /// The store is busy or starting, and was so in all retries.
    #[error("cannot {action} {subject}: the store is unavailable")]
    Unavailable {
        /// The operation, as a verb.
        action: &'static str,
        /// The blob, image or lease.
        subject: String,
        /// The last answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store answered with another error.
    #[error("cannot {action} {subject}")]
    Remote {
        /// The operation, as a verb.
        action: &'static str,
        /// The blob, image or lease.
        subject: String,
        /// The gRPC status with its code and message.
        #[source]
        source: Box<tonic::Status>,
    },
    /// A file of the store, or the file to be stored, cannot be read or written.
    #[error("cannot {action} {subject}")]
    Io {
        /// The operation, as a verb.
        action: &'static str,
        /// The file or blob.
        subject: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The store holds a value that does not parse: an image layout's index, a digest.
    #[error("cannot understand {subject}")]
    Malformed {
        /// The file or answer.
        subject: String,
        /// The parse error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
