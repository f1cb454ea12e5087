//! Reads an archive as containerd and Docker do, and checks the rules that hold for every archive.

use std::collections::BTreeMap;
use std::io::Read as _;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use oci_tar_builder::Digest;
use serde_json::Value;

pub(crate) struct Archive {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// Reads a tar. Owner, mode and time of all entries are the same; blobs have the digest that they are named by.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let mut files = BTreeMap::new();
        let mut blobs = Vec::new();
        for entry in tar::Archive::new(bytes).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap()), (0, 0, 0o644), "{path}");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            if let Some(hex) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(Digest::of(&content).hex(), hex);
                blobs.push(path.clone());
            }
            assert!(files.insert(path.clone(), content).is_none(), "{path} is there twice");
        }
        assert!(blobs.is_sorted());
        let archive = Self { files };
        assert_eq!(archive.json("oci-layout"), serde_json::json!({"imageLayoutVersion": "1.0.0"}));
        archive
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.files[path]).unwrap()
    }

    /// Returns the one descriptor of the layout's index.
    pub(crate) fn target(&self) -> Descriptor {
        let index: ImageIndex = serde_json::from_slice(&self.files["index.json"]).unwrap();
        assert_eq!(index.manifests().len(), 1);
        index.manifests()[0].clone()
    }

    pub(crate) fn name(&self) -> String {
        self.target().annotations().as_ref().unwrap()["io.containerd.image.name"].clone()
    }

    /// Returns the bytes that a descriptor describes, whose size must be right.
    pub(crate) fn blob(&self, descriptor: &Descriptor) -> &[u8] {
        let blob = &self.files[&format!("blobs/sha256/{}", descriptor.digest().digest())];
        assert_eq!(blob.len() as u64, descriptor.size());
        blob
    }

    /// Returns the image index that the target is.
    pub(crate) fn index(&self) -> ImageIndex {
        serde_json::from_slice(self.blob(&self.target())).unwrap()
    }

    /// Returns the manifest that the target is.
    pub(crate) fn manifest(&self) -> ImageManifest {
        let manifest: ImageManifest = serde_json::from_slice(self.blob(&self.target())).unwrap();
        assert_eq!(manifest.media_type().as_ref().unwrap().to_string(), "application/vnd.oci.image.manifest.v1+json");
        manifest
    }

    pub(crate) fn image_config(&self) -> ImageConfiguration {
        serde_json::from_slice(self.blob(self.manifest().config())).unwrap()
    }

    /// Returns type and bytes of each layer.
    pub(crate) fn layers(&self) -> Vec<(String, Vec<u8>)> {
        let manifest = self.manifest();
        manifest.layers().iter().map(|layer| (layer.media_type().to_string(), self.blob(layer).to_vec())).collect()
    }
}
