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
    /// The record names no image, and none was chosen before.
    None,
    /// This manifest, even if the image's name now refers to another one.
    Pinned(Pin),
    /// The image that the name refers to: the container has not been created before.
    Named(String),
}

impl ContainerImage {
    /// Reads the image from the record of the container `id`.
    pub fn of(record: &ContainerRecord, id: &str) -> Self {
        let note = record.extensions.get(labels::PIN).filter(|note| note.type_url == labels::PIN_TYPE);
        let note = note.map(|note| serde_json::from_slice::<Pin>(&note.value));
        if let Some(Err(error)) = &note {
            tracing::warn!(id, %error, "the note about the container's image cannot be used");
        }
        match (record.image.clone(), note) {
            // Docker's records name no image.
            (None, Some(Ok(pin))) => Self::Pinned(pin),
            (None, _) => Self::None,
            (Some(image), Some(Ok(pin))) if pin.image == image => Self::Pinned(pin),
            (Some(image), note) => {
                // A client that changed the record's image wants the new one.
                if let Some(Ok(pin)) = note {
                    tracing::debug!(id, image, was = pin.image, "the record names another image than before");
                }
                Self::Named(image)
            }
        }
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
    use prewasi_cache::Extension;

    use super::*;

    /// A pin counts if the record names its image or none, as Docker's does.
    #[test]
    fn records() {
        let pin = Pin { image: "a".to_owned(), manifest: Digest::of(b"m"), media_type: "t".to_owned() };
        let note = Extension { type_url: labels::PIN_TYPE.to_owned(), value: serde_json::to_vec(&pin).unwrap() };
        let of = |image: Option<&str>, note: Option<&Extension>| {
            let extensions = note.map(|note| (labels::PIN.to_owned(), note.clone())).into_iter().collect();
            let record = ContainerRecord { image: image.map(str::to_owned), extensions, ..ContainerRecord::default() };
            ContainerImage::of(&record, "id")
        };
        assert_eq!(of(Some("a"), Some(&note)), ContainerImage::Pinned(pin.clone()));
        assert_eq!(of(Some("b"), Some(&note)), ContainerImage::Named("b".to_owned()));
        assert_eq!(of(None, Some(&note)), ContainerImage::Pinned(pin));
        assert_eq!(of(None, Some(&Extension::default())), ContainerImage::None);
        assert_eq!(of(None, None), ContainerImage::None);
    }

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
