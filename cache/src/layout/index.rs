//! `oci-layout` and `index.json`: the layout's version and its image records.
//!
//! A change keeps all fields of `index.json` that this crate does not know.

use std::error::Error;
use std::fs::Permissions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use super::persist;
use crate::store::{io_error, open_regular};
use crate::{ImageRecord, StoreError};

/// Longest file that is parsed, in bytes: protects against a layout that is made to fill the memory.
const LONGEST: u64 = 16 << 20;

/// Annotations with the image's name on a descriptor, in order of precedence: containerd's, then the OCI specification's.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Checks that `root` is an image layout of version 1.
pub(super) fn check_version(root: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    let layout: Value = serde_json::from_slice(&read_limited(&root.join("oci-layout"))?)?;
    match layout["imageLayoutVersion"].as_str() {
        Some(version) if version.starts_with("1.") => Ok(()),
        version => Err(format!("image layout version {version:?} is not 1.x").into()),
    }
}

/// Writes the files that make a folder an image layout, unless they exist.
pub(super) fn create(root: &Path) -> Result<(), StoreError> {
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [],
    });
    // The version comes last: a folder with a version is complete.
    for (name, content) in [("index.json", index), ("oci-layout", json!({"imageLayoutVersion": "1.0.0"}))] {
        let path = root.join(name);
        if !path.exists() {
            let temporary = NamedTempFile::new_in(root).map_err(io_error("create", path.display()))?;
            write_json(temporary, &path, &content)?;
        }
    }
    Ok(())
}

/// The image records of a layout.
pub(super) struct Index {
    path: PathBuf,
    json: Value,
}

impl Index {
    pub(super) fn read(root: &Path) -> Result<Self, StoreError> {
        let path = root.join("index.json");
        let bytes = read_limited(&path).map_err(io_error("read", path.display()))?;
        let json = serde_json::from_slice(&bytes).map_err(|error| malformed(path.display(), error))?;
        Ok(Self { path, json })
    }

    /// Lists the descriptors that have a name.
    pub(super) fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let mut images = Vec::new();
        for descriptor in self.json["manifests"].as_array().into_iter().flatten() {
            let Some(name) = name(descriptor) else { continue };
            let target = descriptor["digest"].as_str().unwrap_or_default();
            let target = target.parse().map_err(|error| malformed(format!("the target of image {name}"), error))?;
            let labels = descriptor["annotations"].as_object().into_iter().flatten();
            images.push(ImageRecord {
                name: name.to_owned(),
                target,
                media_type: descriptor["mediaType"].as_str().unwrap_or_default().to_owned(),
                labels: labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
            });
        }
        Ok(images)
    }

    /// Sets one annotation of an image's descriptor; an empty `value` removes it.
    pub(super) fn annotate(&mut self, image: &str, key: &str, value: &str) -> Result<(), StoreError> {
        let descriptors = self.json["manifests"].as_array_mut().into_iter().flatten();
        let descriptor = descriptors
            .filter(|descriptor| name(descriptor) == Some(image))
            .find_map(|descriptor| descriptor["annotations"].as_object_mut());
        let annotations = descriptor.ok_or_else(|| StoreError::NotFound { subject: format!("image {image}") })?;
        set(annotations, key, value);
        Ok(())
    }

    pub(super) fn write(&self, temporary: NamedTempFile) -> Result<(), StoreError> {
        write_json(temporary, &self.path, &self.json)
    }
}

fn set(annotations: &mut Map<String, Value>, key: &str, value: &str) {
    if value.is_empty() {
        annotations.remove(key);
    } else {
        annotations.insert(key.to_owned(), value.into());
    }
}

fn name(descriptor: &Value) -> Option<&str> {
    NAMES.iter().find_map(|key| descriptor["annotations"][key].as_str())
}

pub(super) fn malformed(subject: impl ToString, error: impl Error + Send + Sync + 'static) -> StoreError {
    StoreError::Malformed { subject: subject.to_string(), source: Box::new(error) }
}

/// Reads a small file that may come from an untrusted author.
pub(super) fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let (file, size) = open_regular(path)?;
    if size > LONGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {LONGEST} bytes")));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces the file at `path` atomically.
pub(super) fn write_json(mut temporary: NamedTempFile, path: &Path, content: &Value) -> Result<(), StoreError> {
    let write = || {
        temporary.write_all(format!("{content:#}\n").as_bytes())?;
        temporary.as_file().set_permissions(Permissions::from_mode(0o644))?;
        persist(temporary, path)
    };
    write().map_err(io_error("write", path.display()))
}
