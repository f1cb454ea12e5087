//! Pins a container to an image: the one that its image's name referred to when the container was first created.
//!
//! During a container's life its image's name may be moved to another image, or removed. So the chosen manifest is recorded in the
//! container's record at containerd, which also keeps the image's content for the life of the container. A pin is valid only if it has
//! this version and is about the image that the record names. It names a blob by its digest, which is checked when the blob is read.

use prewasi_cache::{ContainerRecord, Digest, ImageRecord, labels};
use serde::{Deserialize, Serialize};

use super::Precompiler;
use crate::{Image, ImageError, PrepareError};

/// The image that a container was created from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pin {
    /// Name of the image record at that time.
    pub image: String,
    /// Digest of the chosen manifest.
    pub manifest: Digest,
    /// Media type of the manifest.
    media_type: String,
}

/// The image in a container's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerImage {
    /// The container was made without an image.
    None,
    /// This manifest, even if the image's name now refers to another one.
    Pinned(Pin),
    /// The image that the name refers to: the container has not been created before.
    Named(String),
}

impl ContainerImage {
    /// Reads the image from the record of the container `id`.
    pub fn of(record: &ContainerRecord, id: &str) -> Self {
        let Some(image) = record.image.clone() else { return Self::None };
        let note = record.extensions.get(labels::PIN).filter(|note| note.type_url == labels::PIN_TYPE);
        match note.map(|note| serde_json::from_slice::<Pin>(&note.value)) {
            Some(Ok(pin)) if pin.image == image => return Self::Pinned(pin),
            // A client that changed the record's image wants the new one.
            Some(Ok(pin)) => tracing::debug!(id, image, was = pin.image, "the record names another image than before"),
            Some(Err(error)) => tracing::warn!(id, %error, "what the record says of its image cannot be used"),
            None => {}
        }
        Self::Named(image)
    }
}

impl Pin {
    /// Returns the pin of a container that was created from this image.
    pub fn of(image: &Image) -> Self {
        Self { image: image.name.clone(), manifest: image.manifest.clone(), media_type: image.media_type.clone() }
    }
}

impl Precompiler {
    /// Reads a pinned image.
    ///
    /// # Errors
    /// [`ImageError::MissingBlob`] if a blob of it no longer exists; else [`ImageError`].
    pub async fn resolve_pinned(&self, pin: &Pin) -> Result<Image, ImageError> {
        let Pin { image: name, manifest: target, media_type } = pin.clone();
        let record = ImageRecord { name, target, media_type, labels: Default::default() };
        Ok(Image { pinned: true, ..self.resolve_record(&record).await? })
    }

    /// Records the pin in a container's record, which also keeps the image from collection.
    ///
    /// # Errors
    /// [`PrepareError::Store`]. The container can run all the same, but is not protected from a new image of that name.
    pub async fn pin(&self, id: &str, pin: &Pin) -> Result<(), PrepareError> {
        let Some(containerd) = &self.containerd else { return Ok(()) };
        let note = serde_json::to_vec(pin).unwrap_or_default();
        Ok(containerd.note_container(id, labels::PIN, labels::PIN_TYPE, note, &pin.manifest).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A written pin is read back; one with an unknown field, or without a valid digest, is ignored.
    #[test]
    fn notes() {
        let pin = Pin { image: "a".to_owned(), manifest: Digest::of(b"m"), media_type: "t".to_owned() };
        let text = serde_json::to_string(&pin).unwrap();
        assert_eq!(serde_json::from_str::<Pin>(&text).unwrap(), pin);
        assert!(serde_json::from_str::<Pin>(&text.replacen('{', r#"{"more":1,"#, 1)).is_err());
        assert!(serde_json::from_str::<Pin>(&text.replace("sha256:", "sha256:../")).is_err());
    }
}
