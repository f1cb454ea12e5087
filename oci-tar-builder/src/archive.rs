//! Writes an image as a tar. Every header has the same owner, mode and time, and blobs are sorted by digest.

use std::fs;
use std::io::{self, Read as _, Seek as _, Write};
use std::path::{Path, PathBuf};

use prewasi_oci::{Digest, Hasher};

use crate::image::{Blob, Image};
use crate::layer::{CHUNK, Source};
use crate::output::Output;

/// Two blocks of zeros end a tar.
const BLOCK: usize = 512;

/// Says why an archive was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A layer's file could be read before, but not now.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A layer's file has other bytes than before.
    #[error("cannot pack {}: it changed while it was packed", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The archive would take the place of something that is no file.
    #[error("cannot write {}: it exists and is not a file", path.display())]
    NotAFile {
        /// The archive.
        path: PathBuf,
    },
    /// The archive would take the place of a file that is packed into it.
    #[error("cannot write {}: it is one of the files to pack", path.display())]
    IsInput {
        /// The archive.
        path: PathBuf,
    },
    /// The archive cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The archive.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl Image {
    /// Writes the archive as file `path` and returns its size. An existing file of that name does not change until the whole archive is on
    /// disk. A failure leaves no other file behind.
    ///
    /// # Errors
    /// [`WriteError`] names the file.
    pub fn write_file(&self, path: &Path) -> Result<u64, WriteError> {
        let write_error = |source| WriteError::Write { path: path.to_owned(), source };
        // A link is followed, as every other program does.
        let target = match fs::metadata(path) {
            Ok(old) if !old.is_file() => return Err(WriteError::NotAFile { path: path.to_owned() }),
            Ok(old) if self.blobs.values().any(|blob| blob.source.is_file(&old)) => {
                return Err(WriteError::IsInput { path: path.to_owned() });
            }
            Ok(_) => fs::canonicalize(path).map_err(write_error)?,
            Err(_) => path.to_owned(),
        };
        let mut output = Output::create(&target).map_err(write_error)?;
        let size = self.write_to(path, output.file())?;
        output.commit().map_err(write_error)?;
        Ok(size)
    }

    fn write_to(&self, path: &Path, file: &mut fs::File) -> Result<u64, WriteError> {
        let mut tar = Tar { out: io::BufWriter::with_capacity(CHUNK, file), path, mtime: self.mtime, size: 0 };
        for (name, bytes) in &self.files {
            tar.entry(name, bytes.len() as u64)?;
            tar.put(bytes)?;
            tar.pad()?;
        }
        for (digest, blob) in &self.blobs {
            tar.blob(digest, blob)?;
        }
        tar.put(&[0; 2 * BLOCK])?;
        tar.out.flush().map_err(|source| tar.error(source))?;
        Ok(tar.size)
    }
}

struct Tar<'a, W: Write> {
    out: W,
    path: &'a Path,
    mtime: u64,
    size: u64,
}

impl<W: Write> Tar<'_, W> {
    fn error(&self, source: io::Error) -> WriteError {
        WriteError::Write { path: self.path.to_owned(), source }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.size += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|source| self.error(source))
    }

    fn entry(&mut self, name: &str, size: u64) -> Result<(), WriteError> {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).map_err(|source| self.error(source))?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.mtime);
        header.set_size(size);
        header.set_cksum();
        self.put(header.as_bytes())
    }

    /// Fills the last block of an entry.
    fn pad(&mut self) -> Result<(), WriteError> {
        let rest = usize::try_from(self.size % BLOCK as u64).unwrap_or(0);
        if rest == 0 { Ok(()) } else { self.put(&[0; BLOCK][rest..]) }
    }

    fn blob(&mut self, digest: &Digest, blob: &Blob) -> Result<(), WriteError> {
        self.entry(&digest.blob_path(), blob.size)?;
        match &blob.source {
            Source::Bytes(bytes) => self.put(bytes)?,
            Source::File { path, file } => {
                let read_error = |source| WriteError::Read { path: path.clone(), source };
                let mut file = file;
                file.rewind().map_err(read_error)?;
                // One byte more than there was would show that it grew.
                let mut file = file.take(blob.size + 1);
                let (mut hasher, mut length) = (Hasher::new(), 0);
                let mut buffer = vec![0; CHUNK];
                loop {
                    let n = match file.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(n) => n,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => return Err(read_error(error)),
                    };
                    hasher.update(&buffer[..n]);
                    length += n as u64;
                    self.put(&buffer[..n])?;
                }
                if (&hasher.finish(), length) != (digest, blob.size) {
                    return Err(WriteError::Changed { path: path.clone() });
                }
            }
        }
        self.pad()
    }
}
