//! Layers: bytes that were checked against their media type, with the facts that the documents need about them.
//!
//! A layer does not keep the bytes of a file. The packer reads them once to check and hash them, and again when it writes the archive. The
//! second hash must equal the first.

use std::fs::{File, FileType};
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use prewasi_oci::{Digest, MountPathError, annotation, check_mount_path, media_type};

use crate::document::{Descriptor, Map};
use crate::{Wasm, WasmError};

/// How much is read at once: large enough that system calls do not count, small enough for any machine.
pub(crate) const CHUNK: usize = 256 * 1024;

/// One layer of an image or artifact.
#[derive(Debug)]
pub struct Layer {
    media_type: String,
    digest: Digest,
    size: u64,
    source: Source,
    /// File name, without folder.
    title: Option<String>,
    wasm: Option<Wasm>,
    /// Where it is mounted in the container, if it is data.
    mount: Option<String>,
    /// Whether the bytes are known to match their type.
    is_checked: bool,
}

/// Where the bytes of a blob are.
#[derive(Debug)]
pub(crate) enum Source {
    Bytes(Vec<u8>),
    /// Open since it was checked: a file that takes its place changes nothing.
    File {
        path: PathBuf,
        file: File,
    },
}

/// Says why bytes cannot be a layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The file cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There is something else than a file.
    #[error("cannot pack {}: it is a {kind}, not a file", path.display())]
    NotAFile {
        /// Its path.
        path: PathBuf,
        /// The kind of file.
        kind: &'static str,
    },
    /// The bytes do not match a wasm type.
    #[error("cannot pack {name}")]
    Wasm {
        /// The file.
        name: String,
        /// The actual format of the bytes.
        source: WasmError,
    },
    /// The bytes do not match a tar type.
    #[error("cannot pack {name}: it is no tar, or a truncated one")]
    Tar {
        /// The file.
        name: String,
        /// The error of the tar reader.
        source: io::Error,
    },
    /// The type means a compressed tar, whose diff id only decompressing would tell.
    #[error("cannot pack {name} as {media_type}: only uncompressed tar layers are supported")]
    CompressedTar {
        /// The file.
        name: String,
        /// The type.
        media_type: String,
    },
    /// It is no data.
    #[error("cannot mount {name} at {path:?}: {reason}")]
    NotData {
        /// The file.
        name: String,
        /// The path in the container.
        path: String,
        /// The reason why it is no data.
        reason: &'static str,
    },
    /// Nothing can be mounted there.
    #[error("cannot mount {name} at {path:?}")]
    Mount {
        /// The file.
        name: String,
        /// The path in the container.
        path: String,
        /// The problem with the path.
        source: MountPathError,
    },
    /// The type is none.
    #[error("cannot pack {name} as {media_type:?}: it is no media type")]
    MediaType {
        /// The file.
        name: String,
        /// The text.
        media_type: String,
    },
}

impl Layer {
    /// Reads a file. Its bytes are checked if the type is one of wasm or of a tar.
    ///
    /// # Errors
    /// [`LayerError`] names the file and the problem with it.
    pub fn read(media_type: &str, path: &Path) -> Result<Self, LayerError> {
        let name = path.display().to_string();
        check_media_type(&name, media_type)?;
        let read_error = |source| LayerError::Read { path: path.to_owned(), source };
        let kind = path.metadata().map_err(read_error)?.file_type();
        // Looked at before it is opened: opening a pipe would wait for its writer.
        if !kind.is_file() {
            return Err(LayerError::NotAFile { path: path.to_owned(), kind: describe(kind) });
        }
        let mut file = File::open(path).map_err(read_error)?;
        let (digest, size, wasm);
        if media_type::is_wasm(media_type) {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(read_error)?;
            wasm = Some(validate(&name, &bytes)?);
            (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        } else {
            if media_type::is_unpacked(media_type) {
                check_tar(&name, &file)?;
                file.rewind().map_err(read_error)?;
            }
            wasm = None;
            (digest, size) = Digest::of_reader(&file).map_err(read_error)?;
        }
        let title = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let source = Source::File { path: path.to_owned(), file };
        Ok(Self { media_type: media_type.to_owned(), digest, size, source, title, wasm, mount: None, is_checked: true })
    }

    /// Takes bytes that stand in memory, as [`Layer::read`] takes a file called `name`.
    ///
    /// # Errors
    /// [`LayerError`] names the problem with the bytes.
    pub fn from_bytes(media_type: &str, name: &str, bytes: Vec<u8>) -> Result<Self, LayerError> {
        check_media_type(name, media_type)?;
        let mut layer = Self::unchecked(media_type, bytes);
        if let Source::Bytes(bytes) = &layer.source {
            if media_type::is_wasm(media_type) {
                layer.wasm = Some(validate(name, bytes)?);
            } else if media_type::is_unpacked(media_type) {
                check_tar(name, &bytes[..])?;
            }
        }
        layer.title = Some(name.to_owned());
        layer.is_checked = true;
        Ok(layer)
    }

    /// Takes bytes without any check against their type, also bytes that nothing can use. Tests of readers of images need such layers.
    pub fn unchecked(media_type: &str, bytes: Vec<u8>) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            source: Source::Bytes(bytes),
            title: None,
            wasm: None,
            mount: None,
            is_checked: false,
        }
    }

    /// Makes data of it: a single file, mounted read-only in the container at `path`.
    ///
    /// # Errors
    /// [`LayerError::Mount`] if the path is not absolute and plain, [`LayerError::NotData`] if the layer is wasm or an archive.
    pub fn mounted_at(self, path: &str) -> Result<Self, LayerError> {
        let name = || self.title.clone().unwrap_or_else(|| self.digest.to_string());
        let not_data = |reason| LayerError::NotData { name: name(), path: path.to_owned(), reason };
        if self.is_wasm() {
            return Err(not_data("it is wasm, which is run and not mounted"));
        }
        if media_type::is_archive(&self.media_type) || media_type::is_unpacked(&self.media_type) {
            return Err(not_data("it is an archive, and only single files can be mounted"));
        }
        check_mount_path(path).map_err(|source| LayerError::Mount { name: name(), path: path.to_owned(), source })?;
        Ok(Self { mount: Some(path.to_owned()), ..self })
    }

    /// Returns the media type.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Returns the digest of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Says whether its type is one of wasm.
    pub fn is_wasm(&self) -> bool {
        media_type::is_wasm(&self.media_type)
    }

    /// Returns the number of bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the file's name, without folders.
    pub fn title(&self) -> Option<&str> {
        self.title.as_deref()
    }

    /// Returns the kind and interface of the wasm in the layer, if it was checked and is wasm.
    pub fn wasm(&self) -> Option<&Wasm> {
        self.wasm.as_ref()
    }

    /// Returns where it is mounted in the container, if it is data.
    pub fn mount(&self) -> Option<&str> {
        self.mount.as_deref()
    }

    /// Says whether nothing would have a use for it: it is not wasm, containerd does not unpack it, and it is not mounted.
    pub(crate) fn is_useless(&self) -> bool {
        let is_used = self.is_wasm() || media_type::is_unpacked(&self.media_type);
        self.is_checked && !is_used && self.mount.is_none()
    }

    /// Returns the digest of the unpacked bytes, for layers that are unpacked.
    pub(crate) fn diff_id(&self) -> Option<Digest> {
        // No compressed tar gets here, so packed and unpacked bytes are the same.
        media_type::is_unpacked(&self.media_type).then(|| self.digest.clone())
    }

    pub(crate) fn descriptor(&self) -> Descriptor {
        // The title tells the files of an image apart; a tar has names of its own.
        let title = self.title.as_ref().filter(|_| self.diff_id().is_none());
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: self.size,
            platform: None,
            annotations: [(annotation::TITLE, title), (annotation::MOUNT, self.mount.as_ref())]
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?.clone())))
                .collect::<Map>(),
        }
    }

    pub(crate) fn into_blob(self) -> (Digest, u64, Source) {
        (self.digest, self.size, self.source)
    }
}

impl Source {
    /// Whether it is the very file that `other` describes.
    pub(crate) fn is_file(&self, other: &std::fs::Metadata) -> bool {
        let Self::File { file, .. } = self else { return false };
        file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (other.dev(), other.ino()))
    }
}

fn check_media_type(name: &str, media_type: &str) -> Result<(), LayerError> {
    let (name, media_type) = (name.to_owned(), media_type.to_owned());
    if !media_type::is_valid(&media_type) {
        return Err(LayerError::MediaType { name, media_type });
    }
    if media_type::is_unpacked(&media_type) && media_type::is_compressed(&media_type) {
        return Err(LayerError::CompressedTar { name, media_type });
    }
    Ok(())
}

fn validate(name: &str, bytes: &[u8]) -> Result<Wasm, LayerError> {
    Wasm::validate(bytes).map_err(|source| LayerError::Wasm { name: name.to_owned(), source })
}

/// Walks through a tar: containerd would only find out when a container is to start.
fn check_tar(name: &str, tar: impl Read) -> Result<(), LayerError> {
    let walk = || -> io::Result<()> {
        let mut archive = tar::Archive::new(io::BufReader::with_capacity(CHUNK, tar));
        for entry in archive.entries()? {
            let mut entry = entry?;
            let size = entry.size();
            if io::copy(&mut entry, &mut io::sink())? != size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    };
    walk().map_err(|source| LayerError::Tar { name: name.to_owned(), source })
}

fn describe(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "folder"
    } else if kind.is_fifo() {
        "pipe"
    } else if kind.is_socket() {
        "socket"
    } else {
        "device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(content: &[u8]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, "file", content).unwrap();
        tar.into_inner().unwrap()
    }

    /// A file and the same bytes in memory make the same layer.
    #[test]
    fn file_and_bytes_agree() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        let wasm = wat::parse_str("(module)").unwrap();
        for (media_type, bytes) in [(media_type::WASM, wasm), (media_type::TAR, tar(b"x")), ("a/b", vec![1; CHUNK + 1])]
        {
            std::fs::write(&path, &bytes).unwrap();
            let read = Layer::read(media_type, &path).unwrap();
            let taken = Layer::from_bytes(media_type, "a.wasm", bytes).unwrap();
            assert_eq!((&read.digest, read.size, &read.title), (&taken.digest, taken.size, &taken.title));
            assert_eq!((read.wasm.clone(), read.diff_id()), (taken.wasm.clone(), taken.diff_id()));
        }
    }

    /// Only a layer that containerd unpacks has a diff id, which is the digest of the uncompressed tar.
    #[test]
    fn tar_has_a_diff_id() {
        let bytes = tar(b"content");
        let layer = Layer::from_bytes(media_type::TAR, "a.tar", bytes.clone()).unwrap();
        assert_eq!(layer.diff_id(), Some(Digest::of(&bytes)));
        assert_eq!(Layer::unchecked(media_type::WASM, bytes).diff_id(), None);
    }

    /// A layer with a tar type is refused if its bytes are no tar or only a part of one.
    #[test]
    fn refuses_broken_tars() {
        let whole = tar(&[7; 2000]);
        for broken in [&whole[..600], &whole[..1024], &[1; 1024][..]] {
            let error = Layer::from_bytes(media_type::TAR, "a.tar", broken.to_vec()).unwrap_err();
            assert!(matches!(error, LayerError::Tar { .. }), "{error}");
        }
    }

    /// Compressed tars and odd media types are refused.
    #[test]
    fn refuses_types() {
        let error = |media_type| Layer::from_bytes(media_type, "x", Vec::new()).unwrap_err();
        for compressed in
            ["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"]
        {
            assert!(matches!(error(compressed), LayerError::CompressedTar { .. }), "{compressed}");
        }
        assert!(matches!(error("wasm"), LayerError::MediaType { .. }));
    }

    /// Data is a single file with a plain path of its own, which its descriptor names.
    #[test]
    fn data_is_mounted() {
        let layer = |media_type| Layer::unchecked(media_type, b"data".to_vec());
        let mounted = layer(media_type::DATA).mounted_at("/data/model.bin").unwrap();
        assert_eq!(mounted.mount(), Some("/data/model.bin"));
        assert_eq!(mounted.descriptor().annotations[annotation::MOUNT], "/data/model.bin");
        assert!(!layer(media_type::DATA).descriptor().annotations.contains_key(annotation::MOUNT));
        let error = layer(media_type::DATA).mounted_at("/a/../b").unwrap_err();
        assert!(matches!(error, LayerError::Mount { source: MountPathError::Parent, .. }), "{error}");
        for other in [media_type::WASM, media_type::TAR, "application/x-tar", "application/vnd.example.tar+gzip"] {
            assert!(layer(other).mounted_at("/data").is_err(), "{other}");
        }
    }

    /// Folders and devices are refused without being opened.
    #[test]
    fn refuses_what_is_no_file() {
        let error = |path| Layer::read(media_type::WASM, Path::new(path)).unwrap_err();
        assert!(matches!(error("/"), LayerError::NotAFile { kind: "folder", .. }));
        assert!(matches!(error("/dev/zero"), LayerError::NotAFile { kind: "device", .. }));
        assert!(matches!(error("/nowhere"), LayerError::Read { .. }));
    }
}
