//! Identifies the native code in a layout that this user has compiled.
//!
//! containerd's labels are local to a node, and only root can change its blobs. A layout is a folder of any author: its labels may name
//! native code of the author's choice. So an artifact of a layout runs only if a compile worker of this user made it here. A record in
//! the private part of the runtime folder confirms that. `--trust-layout` skips this check for a whole layout. The artifact runs from a
//! file that no other user can change, else from a sealed copy.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use prewasi_cache::{ArtifactKey, Digest};

use crate::bytes::sealed_copy;

/// Records of the artifacts that were compiled here.
#[derive(Debug)]
pub(crate) struct Provenance {
    folder: PathBuf,
}

impl Provenance {
    pub(crate) fn new(runtime_dir: &Path) -> Self {
        Self { folder: runtime_dir.join("compiled") }
    }

    /// Records that `artifact` was compiled here from the source of `key`. Without the record it would be compiled again.
    pub(crate) fn note(&self, key: &ArtifactKey, artifact: &Digest) {
        if let Err(error) = self.try_note(key, artifact) {
            tracing::debug!(folder = %self.folder.display(), %error, "cannot note that native code was compiled here");
        }
    }

    fn try_note(&self, key: &ArtifactKey, artifact: &Digest) -> io::Result<()> {
        make_private(&self.folder)?;
        let path = self.folder.join(name(key, artifact));
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map(drop)
    }

    /// Returns whether there is such a record.
    pub(crate) fn knows(&self, key: &ArtifactKey, artifact: &Digest) -> bool {
        is_private(&self.folder) && fs::symlink_metadata(self.folder.join(name(key, artifact))).is_ok()
    }
}

/// Returns the name of the record: a hash of all identifying parts.
fn name(key: &ArtifactKey, artifact: &Digest) -> String {
    let ArtifactKey { source, engine, version, fingerprint, anchor: _ } = key;
    Digest::of(format!("{source}\n{engine}\n{version}\n{fingerprint}\n{artifact}").as_bytes()).hex().to_owned()
}

/// Makes a folder for this user alone.
///
/// # Errors
/// The system's error, or a folder that exists and belongs to another user or is open to others.
pub(crate) fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if is_private(folder) {
        Ok(())
    } else {
        Err(io::Error::other("the folder must belong to this user alone, with mode 0700"))
    }
}

/// Returns whether a folder (no link to one) belongs to this user, and no other user may enter it.
fn is_private(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|metadata| {
        metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0
    })
}

/// Returns `file` if only this user or root can change it, else a sealed copy whose bytes match `digest`.
///
/// # Errors
/// The file cannot be read, or its bytes do not match.
pub(crate) fn unchangeable(file: File, digest: &Digest) -> io::Result<File> {
    let metadata = file.metadata()?;
    let owner = metadata.uid();
    if (owner == rustix::process::geteuid().as_raw() || owner == 0) && metadata.mode() & 0o022 == 0 {
        return Ok(file);
    }
    sealed_copy(&file, digest, metadata.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::fs::SealFlags;

    use super::*;

    fn key(source: &[u8]) -> ArtifactKey {
        ArtifactKey {
            source: Digest::of(source),
            anchor: Digest::of(source),
            engine: "wasmtime".to_owned(),
            version: "1-2".to_owned(),
            fingerprint: "2".repeat(64),
        }
    }

    /// A recorded artifact is known; another source, fingerprint or artifact is not.
    #[test]
    fn knows_what_was_noted() {
        let dir = tempfile::tempdir().expect("temp dir");
        let provenance = Provenance::new(&dir.path().join("runtime"));
        let artifact = Digest::of(b"native");
        assert!(!provenance.knows(&key(b"a"), &artifact));
        provenance.note(&key(b"a"), &artifact);
        provenance.note(&key(b"a"), &artifact);
        assert!(provenance.knows(&key(b"a"), &artifact));
        assert!(!provenance.knows(&key(b"b"), &artifact));
        assert!(!provenance.knows(&key(b"a"), &Digest::of(b"other")));
        assert!(!provenance.knows(&ArtifactKey { fingerprint: "3".repeat(64), ..key(b"a") }, &artifact));
    }

    /// Records in a folder that others can enter, or that is a link, are ignored.
    #[test]
    fn believes_private_folders_only() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (provenance, artifact) = (Provenance::new(dir.path()), Digest::of(b"native"));
        provenance.note(&key(b"a"), &artifact);
        let folder = dir.path().join("compiled");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).expect("chmod");
        assert!(!provenance.knows(&key(b"a"), &artifact));
        assert!(make_private(&folder).is_err());
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("chmod");
        assert!(provenance.knows(&key(b"a"), &artifact));
        let moved = dir.path().join("moved");
        fs::rename(&folder, &moved).expect("rename");
        std::os::unix::fs::symlink(&moved, &folder).expect("link");
        assert!(!provenance.knows(&key(b"a"), &artifact));
    }

    /// A file that other users can write to is copied and sealed; a changed one is refused.
    #[test]
    fn copies_what_others_can_change() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("artifact");
        fs::write(&path, "native").expect("write");
        let digest = Digest::of(b"native");
        let seals = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            let file = unchangeable(File::open(&path).expect("open"), &digest).expect("good bytes");
            rustix::fs::fcntl_get_seals(&file).unwrap_or(SealFlags::empty())
        };
        assert!(!seals(0o644).contains(SealFlags::WRITE));
        assert!(seals(0o646).contains(SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK));
        fs::write(&path, "hostile").expect("write");
        assert!(unchangeable(File::open(&path).expect("open"), &digest).is_err());
    }
}
