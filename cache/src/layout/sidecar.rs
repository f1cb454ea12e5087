//! The folder `.prewasi` in a layout: labels of blobs, locks, and files that are being written.
//!
//! Each blob has one JSON file with its labels. The file is replaced atomically, under an advisory lock on `.prewasi/lock`. Locks are
//! locked files, not existing files: the kernel frees them when their holder dies.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::NamedTempFile;

use super::index::{malformed, read_limited, write_json};
use crate::retry::pauses;
use crate::store::{Held, io_error};
use crate::{Digest, Lock, StoreError};

/// The format of a label file. To be raised when older readers would misread a file.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct LabelFile {
    format: u32,
    labels: BTreeMap<String, String>,
}

pub(super) struct Sidecar {
    root: PathBuf,
}

impl Sidecar {
    pub(super) fn new(layout: &Path) -> Self {
        Self { root: layout.join(".prewasi") }
    }

    /// Makes a file that is deleted unless it gets its final name.
    pub(super) fn temporary_file(&self) -> Result<NamedTempFile, StoreError> {
        let folder = self.folder("tmp")?;
        NamedTempFile::new_in(&folder).map_err(io_error("create a file in", folder.display()))
    }

    /// Returns the labels of a blob; without a file the map is empty.
    pub(super) fn labels(&self, digest: &Digest) -> Result<BTreeMap<String, String>, StoreError> {
        let path = self.label_path(digest);
        let bytes = match read_limited(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(io_error("read", path.display())(error)),
        };
        let file: LabelFile = serde_json::from_slice(&bytes).map_err(|error| malformed(path.display(), error))?;
        if file.format != FORMAT {
            let reason = format!("its format is {}, this program knows {FORMAT}", file.format);
            return Err(malformed(path.display(), io::Error::other(reason)));
        }
        Ok(file.labels)
    }

    /// Changes the labels of a blob, under the lock: no other process changes labels meanwhile.
    pub(super) async fn change_labels(
        &self,
        digest: &Digest,
        change: impl FnOnce(&mut BTreeMap<String, String>),
    ) -> Result<(), StoreError> {
        let _guard = self.guard("label", &format!("blob {digest}")).await?;
        let mut labels = self.labels(digest)?;
        change(&mut labels);
        labels.retain(|_, value| !value.is_empty());
        let path = self.label_path(digest);
        if !labels.is_empty() {
            self.folder("labels")?;
            return write_json(self.temporary_file()?, &path, &json!(LabelFile { format: FORMAT, labels }));
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path.display())(error)),
            _ => Ok(()),
        }
    }

    /// Waits for the lock on all files that are changed by reading and writing back.
    pub(super) async fn guard(&self, action: &'static str, subject: &str) -> Result<File, StoreError> {
        let path = self.folder("")?.join("lock");
        let mut pauses = pauses();
        loop {
            match lock_file(&path).map_err(io_error("lock", path.display()))? {
                Some(file) => return Ok(file),
                None => match pauses.next() {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => {
                        let source = format!("{} is held by another process", path.display()).into();
                        return Err(StoreError::Unavailable { action, subject: subject.to_owned(), source });
                    }
                },
            }
        }
    }

    /// Tries to take the lock `name`.
    pub(super) fn try_lock(&self, name: &str) -> Result<Option<Lock>, StoreError> {
        let path = self.folder("locks")?.join(Digest::of(name.as_bytes()).hex());
        match lock_file(&path) {
            Ok(file) => Ok(file.map(|file| Lock(Box::new(LockFile { path, _file: file })))),
            Err(error) => Err(io_error("lock", path.display())(error)),
        }
    }

    fn label_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("labels").join(format!("{}.json", digest.hex()))
    }

    fn folder(&self, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).map_err(io_error("create", path.display()))?;
        Ok(path)
    }
}

/// Locks the file at `path`, which need not exist; `None` if another process holds the lock.
fn lock_file(path: &Path) -> io::Result<Option<File>> {
    loop {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // The previous holder may have removed the file after it was opened here and before it was locked.
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.ino() == file.metadata()?.ino() => return Ok(Some(file)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// A held lock. The file is removed before it is unlocked, so that it cannot be another holder's file.
struct LockFile {
    path: PathBuf,
    _file: File,
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "an empty lock file stays");
        }
    }
}

#[async_trait]
impl Held for LockFile {
    async fn release(self: Box<Self>) {}
}
