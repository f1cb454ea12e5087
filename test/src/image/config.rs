//! The parts of an image that a client reads before it creates a container.

use std::fs;

use serde_json::Value;

use crate::namespace::Namespace;

/// An image's defaults for containers, and the layers of its file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Beginning of the command line.
    pub entrypoint: Vec<String>,
    /// Rest of the command line, unless the container overrides it.
    pub cmd: Vec<String>,
    /// Environment.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    diff_ids: Vec<String>,
}

impl Config {
    /// Reads the config of an imported image; of an index, the config of its last manifest.
    ///
    /// # Panics
    /// If the image or one of its documents does not exist.
    pub async fn of(namespace: &Namespace, image: &str) -> Self {
        let record = namespace.image(image).await.unwrap_or_else(|| panic!("image {image} has not been imported"));
        let read = |digest: &str| -> Value {
            let bytes = fs::read(namespace.daemon().blob_path(digest));
            let bytes = bytes.unwrap_or_else(|error| panic!("cannot read {digest} of {image}: {error}"));
            serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{digest} of {image} is malformed: {error}"))
        };
        let mut document = read(&record.target.expect("a record has a target").digest);
        while let Some(manifest) = document["manifests"].as_array().and_then(|manifests| manifests.last()) {
            document = read(manifest["digest"].as_str().expect("a descriptor has a digest"));
        }
        let config = read(document["config"]["digest"].as_str().expect("a manifest has a config"));
        Self::from_json(&config)
    }

    fn from_json(config: &Value) -> Self {
        let strings = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let container = &config["config"];
        Self {
            entrypoint: strings(&container["Entrypoint"]),
            cmd: strings(&container["Cmd"]),
            env: strings(&container["Env"]),
            working_dir: container["WorkingDir"].as_str().filter(|dir| !dir.is_empty()).unwrap_or("/").to_owned(),
            diff_ids: strings(&config["rootfs"]["diff_ids"]),
        }
    }

    /// Returns the name of the snapshot with all layers: the chain id of the OCI image specification.
    pub fn chain_id(&self) -> String {
        let mut ids = self.diff_ids.iter();
        let Some(first) = ids.next() else { return String::new() };
        ids.fold(first.clone(), |chain, id| super::digest(format!("{chain} {id}").as_bytes()))
    }
}
