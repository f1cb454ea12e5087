//! OCI archives: an image layout in a tar, unpacked into a private folder.
//!
//! The tar is hostile. Only three kinds of entries are unpacked, those of a layout, by their exact names. They must be regular files,
//! they have limits, and a blob's bytes must match the digest in its name. No file gets a name that the tar chooses freely, and no file
//! of the tar is read as a label.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use prewasi_oci::{Digest, Hasher};
use tar::EntryType;
use tempfile::TempDir;

/// Longest `index.json` or `oci-layout`, in bytes: both are later read as a whole.
const DOCUMENT_LIMIT: u64 = 4 << 20;
/// Maximum size of all unpacked files, in bytes; a larger archive holds no wasm program.
const TOTAL_LIMIT: u64 = 4 << 30;
/// Maximum number of entries.
const ENTRY_LIMIT: usize = 10_000;
/// The documents that make a folder a layout.
const DOCUMENTS: [&str; 2] = ["oci-layout", "index.json"];

/// The reason why an archive is not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// The archive cannot be read, or is no tar.
    #[error("cannot read archive {}", path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// The system's or the parser's error.
        #[source]
        source: io::Error,
    },
    /// The archive is compressed.
    #[error("cannot read archive {}: it is compressed", path.display())]
    Compressed {
        /// The archive.
        path: PathBuf,
    },
    /// The archive holds no image layout.
    #[error("cannot use archive {}: it has no {missing}", path.display())]
    NotALayout {
        /// The archive.
        path: PathBuf,
        /// The missing document.
        missing: &'static str,
    },
    /// An entry does not match its name.
    #[error("cannot use archive {}: {entry} {reason}", path.display())]
    Entry {
        /// The archive.
        path: PathBuf,
        /// Name of the entry.
        entry: String,
        /// The mismatch.
        reason: String,
    },
    /// The archive has more entries or bytes than allowed.
    #[error("cannot use archive {}: it has more than {limit}", path.display())]
    TooLarge {
        /// The archive.
        path: PathBuf,
        /// The exceeded limit.
        limit: String,
    },
    /// The folder for the layout cannot be written to.
    #[error("cannot unpack archive {}", path.display())]
    Write {
        /// The archive.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl ArchiveError {
    /// Returns advice for the user.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Compressed { .. } => Some("decompress it first"),
            Self::NotALayout { .. } => {
                Some("`oci-tar-builder`, `ctr images export` and `skopeo copy ... oci-archive:FILE` write OCI archives")
            }
            _ => None,
        }
    }
}

/// Unpacks an OCI archive into a folder that only this user can enter, and that is removed on drop.
///
/// # Errors
/// [`ArchiveError`] names the archive and the entry at fault.
pub(crate) fn unpack(path: &Path) -> Result<TempDir, ArchiveError> {
    let file = File::open(path).map_err(|source| ArchiveError::Read { path: path.to_owned(), source })?;
    let folder = private_folder().and_then(|folder| {
        fs::create_dir_all(folder.path().join("blobs/sha256"))?;
        Ok(folder)
    });
    let folder = folder.map_err(|source| ArchiveError::Write { path: path.to_owned(), source })?;
    Unpacking { path, folder: folder.path(), seen: BTreeSet::new(), total: 0 }.all(&file)?;
    Ok(folder)
}

/// Makes a temporary folder that only this user can enter.
///
/// # Errors
/// The system's error.
pub(crate) fn private_folder() -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("prewasi-").permissions(Permissions::from_mode(0o700)).tempdir()
}

struct Unpacking<'a> {
    path: &'a Path,
    folder: &'a Path,
    seen: BTreeSet<String>,
    total: u64,
}

impl Unpacking<'_> {
    fn all(mut self, file: &File) -> Result<(), ArchiveError> {
        if is_compressed(file) {
            return Err(ArchiveError::Compressed { path: self.path.to_owned() });
        }
        let mut archive = tar::Archive::new(file);
        // Without extensions: they may hold long names, which no file of a layout has, and cost memory.
        let entries = archive.entries().map_err(|source| self.read_error(source))?.raw(true);
        for (number, entry) in entries.enumerate() {
            if number >= ENTRY_LIMIT {
                return Err(self.too_large(format!("{ENTRY_LIMIT} entries")));
            }
            self.one(entry.map_err(|source| self.read_error(source))?)?;
        }
        match DOCUMENTS.into_iter().find(|name| !self.seen.contains(*name)) {
            Some(missing) => Err(ArchiveError::NotALayout { path: self.path.to_owned(), missing }),
            None => Ok(()),
        }
    }

    fn one(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<(), ArchiveError> {
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
        let digest = name.strip_prefix("blobs/sha256/").and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
        if digest.is_none() && !DOCUMENTS.contains(&name.as_str()) {
            return Ok(());
        }
        if !matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
            return Err(self.entry_error(name, "is no regular file"));
        }
        if !self.seen.insert(name.clone()) {
            return Err(self.entry_error(name, "is there twice"));
        }
        let size = entry.size();
        if digest.is_none() && size > DOCUMENT_LIMIT {
            return Err(self.entry_error(name, &format!("has more than {DOCUMENT_LIMIT} bytes")));
        }
        self.total = self.total.saturating_add(size);
        if self.total > TOTAL_LIMIT {
            return Err(self.too_large(format!("{TOTAL_LIMIT} bytes")));
        }
        let target = match &digest {
            Some(digest) => self.folder.join("blobs/sha256").join(digest.hex()),
            None => self.folder.join(&name),
        };
        let (actual, length) = self.copy(&mut entry, &target)?;
        if length != size {
            return Err(self.entry_error(name, "is cut off"));
        }
        match digest {
            Some(digest) if digest != actual => Err(self.entry_error(name, &format!("has the bytes of {actual}"))),
            _ => Ok(()),
        }
    }

    fn copy(&self, from: &mut impl Read, target: &Path) -> Result<(Digest, u64), ArchiveError> {
        let write_error = |source| ArchiveError::Write { path: self.path.to_owned(), source };
        let mut file = File::create_new(target).map_err(write_error)?;
        let (mut hasher, mut length, mut buffer) = (Hasher::new(), 0, vec![0; 256 << 10]);
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok((hasher.finish(), length)),
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    file.write_all(&buffer[..count]).map_err(write_error)?;
                    length += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.read_error(error)),
            }
        }
    }

    fn read_error(&self, source: io::Error) -> ArchiveError {
        ArchiveError::Read { path: self.path.to_owned(), source }
    }

    fn entry_error(&self, entry: String, reason: &str) -> ArchiveError {
        ArchiveError::Entry { path: self.path.to_owned(), entry, reason: reason.to_owned() }
    }

    fn too_large(&self, limit: String) -> ArchiveError {
        ArchiveError::TooLarge { path: self.path.to_owned(), limit }
    }
}

/// Recognises gzip, zstd, bzip2 and xz.
fn is_compressed(file: &File) -> bool {
    const MAGIC: [&[u8]; 4] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"];
    let mut start = [0; 6];
    let length = file.read_at(&mut start, 0).unwrap_or(0);
    MAGIC.iter().any(|magic| start[..length].starts_with(magic))
}

#[cfg(test)]
mod tests;
