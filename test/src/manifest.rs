//! Images that no packer makes: manifests written by hand, as a hostile registry may serve them.

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;

use crate::image::{digest, tar};
use crate::namespace::Namespace;

/// A blob, and its description in the manifest.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its media type.
    pub media_type: String,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Length in bytes that the manifest claims.
    pub size: u64,
    /// Annotations of its descriptor.
    pub annotations: BTreeMap<String, String>,
}

impl Blob {
    /// Takes bytes unchanged.
    pub fn new(media_type: &str, bytes: &[u8]) -> Self {
        let (media_type, bytes, size) = (media_type.to_owned(), bytes.to_vec(), bytes.len() as u64);
        Self { media_type, bytes, size, annotations: BTreeMap::new() }
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotated(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    fn descriptor(&self) -> serde_json::Value {
        json!({
            "mediaType": self.media_type, "digest": digest(&self.bytes), "size": self.size,
            "annotations": self.annotations,
        })
    }
}

/// Imports an image with this config and these layers; returns its name. Nothing is unpacked.
///
/// # Panics
/// If it cannot be written or imported.
pub fn import(namespace: &Namespace, name: &str, config: &Blob, layers: Vec<Blob>) -> String {
    let descriptors: Vec<_> = layers.iter().map(Blob::descriptor).collect();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config.descriptor(), "layers": descriptors,
    });
    let manifest = Blob::new(media_type, manifest.to_string().as_bytes());
    let image = format!("localhost/{name}:latest");
    let named = manifest.clone().annotated("io.containerd.image.name", &image);
    let index = json!({"schemaVersion": 2, "manifests": [named.descriptor()]}).to_string();
    let place = |blob: &Blob| format!("blobs/{}", digest(&blob.bytes).replace(':', "/"));
    let blobs: Vec<_> = layers.iter().chain([config, &manifest]).map(|blob| (place(blob), blob)).collect();
    let mut files: Vec<(&str, &[u8], u32)> =
        vec![("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644), ("index.json", index.as_bytes(), 0o644)];
    files.extend(blobs.iter().map(|(place, blob)| (place.as_str(), blob.bytes.as_slice(), 0o644)));
    let path = namespace.folder().join(format!("{name}.tar"));
    fs::write(&path, tar(&files)).expect("the folder is ours");
    namespace.ctr(&["images", "import", "--all-platforms", "--no-unpack", &path.to_string_lossy()]).success();
    image
}
