//! Which image a container runs: the one that its name stood for when the container was first created.
//!
//! A name can be given to another image, or to none, while a container lives. So the manifest that was chosen is noted in the container's
//! record at containerd, which also keeps the image's content for as long as there is the container. A note is taken only if it is of
//! this version and about the image that the record names. It names a blob by its digest, which is checked when the blob is read.

use prewasi_cache::{ContainerRecord, Digest, ImageRecord, labels};
use serde::{Deserialize, Serialize};

use super::Precompiler;
use crate::{Image, ImageError, PrepareError};

/// An image as it was when a container was created from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pin {
    /// Name of the image record then.
    pub image: String,
    /// Digest of the manifest that was chosen.
    pub manifest: Digest,
    /// Media type of the manifest.
    media_type: String,
}

/// What a container's record says of its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerImage {
    /// It was made without one.
    None,
    /// This one, whatever its name stands for by now.
    Pinned(Pin),
    /// Whatever the name stands for: it has not been created before.
    Named(String),
}

impl ContainerImage {
    /// Reads from the record of the container `id` which image that runs.
    pub fn of(record: &ContainerRecord, id: &str) -> Self {
        let Some(image) = record.image.clone() else { return Self::None };
        let note = record.extensions.get(labels::PIN).filter(|note| note.type_url == labels::PIN_TYPE);
        match note.map(|note| serde_json::from_slice::<Pin>(&note.value)) {
            Some(Ok(pin)) if pin.image == image => return Self::Pinned(pin),
            // Whoever gave the record another image wants that.
            Some(Ok(pin)) => tracing::debug!(id, image, was = pin.image, "the record names another image than before"),
            Some(Err(error)) => tracing::warn!(id, %error, "what the record says of its image cannot be used"),
            None => {}
        }
        Self::Named(image)
    }
}

impl Pin {
    /// Says what a container of the image is to run from now on.
    pub fn of(image: &Image) -> Self {
        Self { image: image.name.clone(), manifest: image.manifest.clone(), media_type: image.media_type.clone() }
    }
}

impl Precompiler {
    /// Reads what a pinned image holds.
    ///
    /// # Errors
    /// [`ImageError::MissingBlob`] if it is not there any more.
    pub async fn resolve_pinned(&self, pin: &Pin) -> Result<Image, ImageError> {
        let Pin { image: name, manifest: target, media_type } = pin.clone();
        let record = ImageRecord { name, target, media_type, labels: Default::default() };
        Ok(Image { pinned: true, ..self.resolve_record(&record).await? })
    }

    /// Notes in a container's record which image it runs, and has the record keep it.
    ///
    /// # Errors
    /// [`PrepareError::Store`]; the container runs all the same, but is not protected from a new image of that name.
    pub async fn pin(&self, id: &str, pin: &Pin) -> Result<(), PrepareError> {
        let Some(containerd) = &self.containerd else { return Ok(()) };
        let note = serde_json::to_vec(pin).unwrap_or_default();
        Ok(containerd.note_container(id, labels::PIN, labels::PIN_TYPE, note, &pin.manifest).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A note is read as it was written; one with a field that is not known here, or that names no digest, is none.
    #[test]
    fn notes() {
        let pin = Pin { image: "a".to_owned(), manifest: Digest::of(b"m"), media_type: "t".to_owned() };
        let text = serde_json::to_string(&pin).unwrap();
        assert_eq!(serde_json::from_str::<Pin>(&text).unwrap(), pin);
        assert!(serde_json::from_str::<Pin>(&text.replacen('{', r#"{"more":1,"#, 1)).is_err());
        assert!(serde_json::from_str::<Pin>(&text.replace("sha256:", "sha256:../")).is_err());
    }
}
