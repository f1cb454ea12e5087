//! Opens the data files of an image.

use prewasi_cache::{BlobFile, StoreError};

use super::Precompiler;
use crate::{DataError, DataFile, Image, ImageError};

impl Precompiler {
    /// Opens a data file of an image and verifies its digest, as with native code: by its stamp, else by hashing.
    ///
    /// # Errors
    /// [`ImageError`] names image and layer.
    pub async fn open_data(&self, image: &Image, file: &DataFile) -> Result<BlobFile, ImageError> {
        let refused = |source| ImageError::Data { image: image.name.clone(), layer: file.digest.clone(), source };
        let failed = |error| match error {
            StoreError::NotFound { .. } => {
                ImageError::MissingBlob { image: image.name.clone(), what: "layer", digest: file.digest.clone() }
            }
            StoreError::Corrupt { actual, .. } => refused(DataError::Corrupt { actual }),
            source => ImageError::Store { image: image.name.clone(), source },
        };
        let blob = self.store.info(&file.digest).await.map_err(failed)?;
        let blob = blob.ok_or_else(|| failed(StoreError::NotFound { subject: file.digest.to_string() }))?;
        // The limits were checked against the manifest's size.
        if blob.size != file.size {
            return Err(refused(DataError::Size { actual: blob.size, claimed: file.size }));
        }
        self.cache.open_verified(&file.digest).await.map_err(failed)
    }
}
