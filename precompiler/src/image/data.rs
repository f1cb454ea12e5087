//! Data layers of a wasm image: single files, which are mounted beside the program.
//!
//! An annotation of the layer's descriptor has the path. All claims of an image are hostile: the number of files, their sizes, their
//! paths. They are checked when a container is created; a compile does not need them.

use std::path::{Path, PathBuf};

use prewasi_oci::{Digest, check_mount_path, media_type};

use super::Image;
use crate::error::{MAX_BYTES, MAX_FILES};
use crate::{DataError, ImageError};

/// Longest text of an image that a message repeats, in characters.
const MAX_SHOWN: usize = 200;

/// A layer that is not wasm, as the manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataLayer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Length in bytes, according to the manifest.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// The mount path in the annotation.
    pub mount: Option<String>,
}

/// A file that is mounted in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Digest of the blob.
    pub digest: Digest,
    /// Length in bytes, according to the manifest.
    pub size: u64,
    /// The mount path: absolute, of plain names alone.
    pub path: PathBuf,
}

impl Image {
    /// Returns the files to mount in a container of this image.
    ///
    /// # Errors
    /// [`ImageError::Data`] names the first layer that cannot be mounted, and the reason.
    pub fn data_files(&self) -> Result<Vec<DataFile>, ImageError> {
        let mut files: Vec<DataFile> = Vec::new();
        let mut bytes: u64 = 0;
        for layer in &self.data {
            let path = self.checked(layer, layer.path())?;
            bytes = bytes.saturating_add(layer.size);
            let overlap = files.iter().find(|file| overlap(&file.path, &path));
            self.checked(
                layer,
                match overlap {
                    Some(file) => Err(DataError::Overlap { path: path.clone(), other: file.path.clone() }),
                    None if self.data.len() > MAX_FILES => Err(DataError::TooMany { count: self.data.len() }),
                    None if bytes > MAX_BYTES => Err(DataError::TooLarge),
                    None => Ok(()),
                },
            )?;
            files.push(DataFile { digest: layer.digest.clone(), size: layer.size, path });
        }
        Ok(files)
    }

    fn checked<T>(&self, layer: &DataLayer, result: Result<T, DataError>) -> Result<T, ImageError> {
        let (image, layer) = (self.name.clone(), layer.digest.clone());
        result.map_err(|source| ImageError::Data { image, layer, source })
    }
}

impl DataLayer {
    /// Describes the layer, for people.
    pub(super) fn describe(&self) -> String {
        match self.path() {
            Ok(path) => format!("data of {} bytes, mounted read-only at {}", self.size, path.display()),
            Err(error) => format!("data that cannot be mounted: {error}"),
        }
    }

    fn path(&self) -> Result<PathBuf, DataError> {
        let shown = || cut(&self.media_type);
        if media_type::is_archive(&self.media_type) {
            return Err(DataError::Archive { media_type: shown() });
        }
        let text = self.mount.as_deref().ok_or_else(|| DataError::NoPath { media_type: shown() })?;
        check_mount_path(text).map_err(|reason| DataError::Path { path: cut(text), reason })?;
        Ok(PathBuf::from(text))
    }
}

/// Returns whether one path equals the other, or lies below it.
pub fn overlap(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// Shortens a text of an image for a message.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use prewasi_oci::MountPathError;

    use super::*;
    use crate::Content;

    const PLAIN: &str = "application/octet-stream";

    fn layer(media_type: &str, mount: Option<&str>, size: u64) -> DataLayer {
        let digest = Digest::of(format!("{media_type} {mount:?}").as_bytes());
        DataLayer { digest, size, media_type: media_type.to_owned(), mount: mount.map(str::to_owned) }
    }

    fn files(data: Vec<DataLayer>) -> Result<Vec<PathBuf>, DataError> {
        let image = Image {
            name: "localhost/data:latest".to_owned(),
            labels: Default::default(),
            manifest: Digest::of(b"manifest"),
            media_type: String::new(),
            pinned: false,
            config: Digest::of(b"config"),
            annotations: Default::default(),
            content: Content::Wasm(Vec::new()),
            data,
            imports: Vec::new(),
            stop_signal: None,
        };
        match image.data_files() {
            Ok(files) => Ok(files.into_iter().map(|file| file.path).collect()),
            Err(ImageError::Data { source, .. }) => Err(source),
            Err(error) => panic!("{error}"),
        }
    }

    fn at(paths: &[&str]) -> Result<Vec<PathBuf>, DataError> {
        files(paths.iter().map(|path| layer(PLAIN, Some(path), 1)).collect())
    }

    /// A file has the path of its annotation.
    #[test]
    fn paths_are_taken() {
        let paths = ["/model.bin", "/data/a", "/data/b", "/data/a b/ü", "/data2", "/..data"];
        assert_eq!(at(&paths).unwrap(), paths.map(PathBuf::from));
        assert_eq!(at(&[]).unwrap(), Vec::<PathBuf>::new());
    }

    /// An unusable path is refused, and the message shortens it.
    #[test]
    fn odd_paths_are_refused() {
        let long = format!("/{}", "a/".repeat(2048));
        for (path, expected) in
            [("a", MountPathError::Relative), ("/a/..", MountPathError::Parent), (&long, MountPathError::TooLong)]
        {
            let error = at(&[path]).unwrap_err();
            assert!(matches!(error, DataError::Path { reason, .. } if reason == expected), "{path:?}: {error}");
            assert!(error.to_string().len() < 500, "{error}");
        }
    }

    /// No two files have the same path, or one below the other.
    #[test]
    fn files_are_not_in_each_others_way() {
        for paths in [["/a", "/a"], ["/a", "/a/b"], ["/a/b/c", "/a"]] {
            assert!(matches!(at(&paths), Err(DataError::Overlap { .. })), "{paths:?}");
        }
    }

    /// The errors for a layer without a path, and for an archive, contain advice.
    #[test]
    fn other_layers_are_refused() {
        assert!(matches!(files(vec![layer(PLAIN, None, 1)]), Err(DataError::NoPath { .. })));
        for media_type in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/x-tar",
            "application/vnd.example+tar",
        ] {
            let refused = files(vec![layer(media_type, Some("/a"), 1)]);
            assert!(matches!(refused, Err(DataError::Archive { .. })), "{media_type}: {refused:?}");
        }
        for media_type in ["application/vnd.example.target", "image/avatar", PLAIN] {
            assert!(files(vec![layer(media_type, Some("/a"), 1)]).is_ok(), "{media_type}");
        }
    }

    /// Number and size of the files are limited.
    #[test]
    fn amounts_are_bounded() {
        let many = |count: usize| files((0..count).map(|n| layer(PLAIN, Some(&format!("/{n}")), 1)).collect());
        assert_eq!(many(MAX_FILES).unwrap().len(), MAX_FILES);
        assert_eq!(many(MAX_FILES + 1), Err(DataError::TooMany { count: MAX_FILES + 1 }));
        let sized =
            |sizes: [u64; 2]| files(vec![layer(PLAIN, Some("/a"), sizes[0]), layer(PLAIN, Some("/b"), sizes[1])]);
        assert!(sized([MAX_BYTES - 1, 1]).is_ok());
        for sizes in [[MAX_BYTES, 1], [u64::MAX, u64::MAX]] {
            assert_eq!(sized(sizes), Err(DataError::TooLarge));
        }
    }
}
