//! An OCI image layout folder as a content store: without a daemon and without a garbage collector.
//!
//! The OCI image specification has a place for blobs and for image records, but none for labels of blobs. Those are in the sidecar folder
//! `.prewasi` inside the layout (`docs/cache.md` has its format). A layout is untrusted input: paths are made of checked digests only,
//! links are not followed, and all reads have a limit.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tempfile::NamedTempFile;

use crate::store::{check_label, io_error, open_regular};
use crate::{BlobFile, BlobInfo, ContentStore, Digest, ImageRecord, Lease, Lock, NewBlob, StoreError};
use prewasi_oci::Hasher;

mod index;
mod sidecar;

use index::Index;
use sidecar::Sidecar;

/// A folder with an OCI image layout.
///
/// Leases have no effect here: only [`ContentStore::delete`] removes blobs. Locks and label updates are safe between processes of one
/// machine.
pub struct LayoutStore {
    root: PathBuf,
    sidecar: Sidecar,
}

impl LayoutStore {
    /// Opens the layout in the folder `path`.
    ///
    /// # Errors
    /// [`StoreError::Connect`] if there is no image layout of version 1.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connect = |source| StoreError::Connect { store: describe(path), source };
        index::check_version(path).map_err(connect)?;
        for folder in ["blobs", "blobs/sha256", ".prewasi"] {
            match fs::symlink_metadata(path.join(folder)) {
                Ok(metadata) if !metadata.is_dir() => return Err(connect(format!("{folder} is not a folder").into())),
                _ => {}
            }
        }
        Ok(Self { root: path.to_owned(), sidecar: Sidecar::new(path) })
    }

    /// Makes an empty layout in the folder `path`, which may exist. A layout that exists already is opened.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the folder cannot be written to; [`StoreError::Connect`] if it holds a layout of another version.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let blobs = path.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(io_error("create", blobs.display()))?;
        index::create(path)?;
        Self::open(path)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Opens the file of a blob; `None` if there is none.
    fn find(&self, digest: &Digest) -> Result<Option<BlobFile>, StoreError> {
        let path = self.blob_path(digest);
        match open_regular(&path) {
            Ok((file, size)) => Ok(Some(BlobFile { file, size, path: Some(path) })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("open", path.display())(error)),
        }
    }

    fn blob_info(&self, digest: &Digest) -> Result<Option<BlobInfo>, StoreError> {
        let Some(blob) = self.find(digest)? else { return Ok(None) };
        let created = blob.file.metadata().and_then(|metadata| metadata.modified()).ok();
        let labels = self.sidecar.labels(digest)?;
        Ok(Some(BlobInfo { digest: digest.clone(), size: blob.size, labels, created }))
    }

    /// Writes a blob's file completely and with the right bytes, or not at all.
    fn write_file(&self, blob: NewBlob<'_>) -> Result<(), StoreError> {
        let path = self.blob_path(blob.digest);
        let failed = || io_error("write", path.display());
        let mut temporary = self.sidecar.temporary_file()?;
        let actual = copy(blob.file, blob.size, &mut temporary).map_err(failed())?;
        if actual != *blob.digest {
            return Err(StoreError::Corrupt { digest: blob.digest.clone(), actual });
        }
        temporary.as_file().set_permissions(Permissions::from_mode(0o444)).map_err(failed())?;
        let folder = self.root.join("blobs/sha256");
        fs::create_dir_all(&folder).map_err(failed())?;
        persist(temporary, &path).map_err(failed())
    }
}

#[async_trait]
impl ContentStore for LayoutStore {
    fn describe(&self) -> String {
        describe(&self.root)
    }

    async fn info(&self, digest: &Digest) -> Result<Option<BlobInfo>, StoreError> {
        self.blob_info(digest)
    }

    async fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let BlobFile { file, size, .. } = self.open(digest).await?;
        if size > limit {
            return Err(StoreError::TooLarge { digest: digest.clone(), size, limit });
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0).map_err(io_error("read blob", digest))?;
        let actual = Digest::of(&bytes);
        if actual == *digest { Ok(bytes) } else { Err(StoreError::Corrupt { digest: digest.clone(), actual }) }
    }

    async fn open(&self, digest: &Digest) -> Result<BlobFile, StoreError> {
        self.find(digest)?.ok_or_else(|| not_found(digest))
    }

    async fn lease(&self, _ttl: Duration) -> Result<Lease, StoreError> {
        Ok(Lease(format!("prewasi-{}", uuid::Uuid::new_v4())))
    }

    async fn release(&self, _lease: Lease) -> Result<(), StoreError> {
        Ok(())
    }

    async fn write(&self, _lease: &Lease, blob: NewBlob<'_>) -> Result<(), StoreError> {
        let subject = format!("blob {}", blob.digest);
        for (key, value) in blob.labels {
            check_label(&subject, key, value)?;
        }
        if self.find(blob.digest)?.is_none_or(|found| found.size != blob.size) {
            self.write_file(blob)?;
        }
        self.sidecar.change_labels(blob.digest, |labels| labels.extend(blob.labels.clone())).await
    }

    async fn set_label(&self, digest: &Digest, key: &str, value: &str) -> Result<(), StoreError> {
        check_label(&format!("blob {digest}"), key, value)?;
        self.find(digest)?.ok_or_else(|| not_found(digest))?;
        self.sidecar.change_labels(digest, |labels| drop(labels.insert(key.to_owned(), value.to_owned()))).await
    }

    async fn delete(&self, digest: &Digest) -> Result<(), StoreError> {
        // In this order: a blob that comes back later does not have its old labels.
        self.sidecar.change_labels(digest, BTreeMap::clear).await?;
        let path = self.blob_path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("delete", path.display())(error)),
            _ => Ok(()),
        }
    }

    async fn blobs(&self) -> Result<Vec<BlobInfo>, StoreError> {
        let folder = self.root.join("blobs/sha256");
        let list = || fs::read_dir(&folder)?.collect::<io::Result<Vec<_>>>();
        let mut found = Vec::new();
        for entry in list().map_err(io_error("list", folder.display()))? {
            let digest = entry.file_name().to_str().and_then(|hex| format!("sha256:{hex}").parse().ok());
            // Other entries are no blobs, in particular links.
            if let Some(digest) = digest.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file())) {
                found.extend(self.blob_info(&digest)?);
            }
        }
        Ok(found)
    }

    async fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        Index::read(&self.root)?.images()
    }

    async fn image(&self, name: &str) -> Result<Option<ImageRecord>, StoreError> {
        Ok(self.images().await?.into_iter().find(|image| image.name == name))
    }

    async fn set_image_label(&self, name: &str, key: &str, value: &str) -> Result<(), StoreError> {
        check_label(&format!("image {name}"), key, value)?;
        let _guard = self.sidecar.guard("label", &format!("image {name}")).await?;
        let mut index = Index::read(&self.root)?;
        index.annotate(name, key, value)?;
        index.write(self.sidecar.temporary_file()?)
    }

    async fn try_lock(&self, name: &str) -> Result<Option<Lock>, StoreError> {
        self.sidecar.try_lock(name)
    }
}

fn describe(path: &Path) -> String {
    format!("OCI image layout {}", path.display())
}

fn not_found(digest: &Digest) -> StoreError {
    StoreError::NotFound { subject: format!("blob {digest}") }
}

/// Copies `size` bytes of `from` by position, and hashes them in the same pass.
fn copy(from: &File, size: u64, into: &mut NamedTempFile) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut offset = 0;
    while offset < size {
        let length = usize::try_from(size - offset).unwrap_or(usize::MAX).min(buffer.len());
        from.read_exact_at(&mut buffer[..length], offset)?;
        hasher.update(&buffer[..length]);
        into.write_all(&buffer[..length])?;
        offset += length as u64;
    }
    Ok(hasher.finish())
}

/// Renames a finished temporary file. After a power cut the file is there completely, or not at all.
fn persist(temporary: NamedTempFile, path: &Path) -> io::Result<()> {
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
