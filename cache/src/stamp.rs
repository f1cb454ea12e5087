//! Stamps: records of verified files, with which a usual start calls `stat` on a file instead of hashing it.
//!
//! A stamp holds device, inode, size, mtime and ctime of a file whose bytes hash to the digest in the stamp's name. No program can set
//! the ctime, so each change of a byte also invalidates the stamp. A file that changed very recently gets no stamp, because a further
//! change might have the same time. Stamps count only in a folder that belongs to this user and that no other user can write to.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::store::open_regular;
use crate::{BlobFile, Digest};

/// The format of a stamp; a stamp of another format is ignored.
const FORMAT: u32 = 1;

/// Two changes of a file within this time may have the same ctime: the kernel's clock for files ticks every 1 to 10 ms.
const TICK: Duration = Duration::from_millis(20);

/// Longest valid stamp, in bytes: a stamp holds a few numbers.
const LONGEST: u64 = 4096;

/// The `stat` fields that identify a file's content.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    format: u32,
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            format: FORMAT,
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Returns the time since the file's last change; `None` if that lies in the future.
    fn age(&self) -> Option<Duration> {
        let changed = Duration::new(self.ctime.0.try_into().ok()?, self.ctime.1.try_into().ok()?);
        SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(changed)
    }
}

/// A folder of stamps, one file per digest.
#[derive(Clone)]
pub(crate) struct Stamps {
    folder: PathBuf,
}

impl Stamps {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Checks that the bytes of `blob` hash to `digest`: by the stamp, else by hashing, which then writes a stamp. Returns the actual
    /// digest if it differs.
    pub(crate) async fn verify(&self, digest: &Digest, blob: &BlobFile) -> io::Result<Option<Digest>> {
        // A memfd is a new copy each time: a stamp could not identify it.
        if blob.path.is_none() {
            return Ok(Some(Digest::of_file(&blob.file, blob.size)?).filter(|actual| actual != digest));
        }
        let before = Stamp::of(&blob.file)?;
        if self.read(digest).as_ref() == Some(&before) {
            return Ok(None);
        }
        let age = before.age();
        if let Some(rest) = age.and_then(|age| TICK.checked_sub(age)) {
            tokio::time::sleep(rest).await;
        }
        let actual = Digest::of_file(&blob.file, blob.size)?;
        if actual != *digest {
            return Ok(Some(actual));
        }
        if age.is_some() && before == Stamp::of(&blob.file)? {
            self.write(digest, &before);
        }
        Ok(None)
    }

    fn read(&self, digest: &Digest) -> Option<Stamp> {
        is_private(&self.folder).then_some(())?;
        let (file, size) = open_regular(&self.folder.join(digest.hex())).ok()?;
        let mut bytes = Vec::new();
        file.take(LONGEST.min(size)).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Writes a stamp. A failure only means that the next start hashes again.
    fn write(&self, digest: &Digest, stamp: &Stamp) {
        if let Err(error) = self.try_write(digest, stamp) {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot note that an artifact was verified");
        }
    }

    fn try_write(&self, digest: &Digest, stamp: &Stamp) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        if !is_private(&self.folder) {
            return Err(io::Error::other("the folder must belong to this user alone, with mode 0700"));
        }
        let mut temporary = NamedTempFile::new_in(&self.folder)?;
        temporary.write_all(&serde_json::to_vec(stamp)?)?;
        temporary.persist(self.folder.join(digest.hex()))?;
        Ok(())
    }
}

fn is_private(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|metadata| {
        metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0
    })
}

#[cfg(test)]
mod tests;
