use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;

use rustix::fs::{Timespec, Timestamps, futimens};
use tempfile::TempDir;

use super::*;

struct Bench {
    folder: TempDir,
    stamps: Stamps,
    digest: Digest,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("blob"), b"bytes").unwrap();
        let stamps = Stamps::new(folder.path().join("run/stamps"));
        Self { folder, stamps, digest: Digest::of(b"bytes") }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("blob")
    }

    fn blob(&self) -> BlobFile {
        let (file, size) = open_regular(&self.path()).unwrap();
        BlobFile { file, size, path: Some(self.path()) }
    }

    async fn verify(&self) -> Option<Digest> {
        self.stamps.verify(&self.digest, &self.blob()).await.unwrap()
    }

    /// Writes a stamp for the file under a wrong digest: only hashing can notice that.
    async fn stamp_falsely(&mut self) {
        self.digest = Digest::of(b"other bytes");
        assert_eq!(self.verify().await, Some(Digest::of(b"bytes")));
        self.stamps.write(&self.digest, &Stamp::of(&self.blob().file).unwrap());
    }
}

/// A verified file is not hashed again; the folder of stamps is private.
#[tokio::test]
async fn verified_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.verify().await, None);
    let mode = fs::metadata(bench.folder.path().join("run/stamps")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(bench.stamps.read(&bench.digest), Some(Stamp::of(&bench.blob().file).unwrap()));
    bench.stamp_falsely().await;
    assert_eq!(bench.verify().await, None, "the stamp is believed");
}

/// A byte changed in place is noticed, even if length and modification time are the same as before.
#[tokio::test]
async fn changed_in_place() {
    let bench = Bench::new();
    assert_eq!(bench.verify().await, None);
    let metadata = fs::metadata(bench.path()).unwrap();
    let file = File::options().write(true).open(bench.path()).unwrap();
    (&file).write_all(b"bytez").unwrap();
    let mtime = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() };
    futimens(&file, &Timestamps { last_access: mtime, last_modification: mtime }).unwrap();
    assert_eq!(fs::metadata(bench.path()).unwrap().modified().unwrap(), metadata.modified().unwrap());
    assert_eq!(bench.verify().await, Some(Digest::of(b"bytez")));
}

/// A file put in the place of the verified one is hashed.
#[tokio::test]
async fn replaced() {
    let bench = Bench::new();
    assert_eq!(bench.verify().await, None);
    fs::write(bench.folder.path().join("new"), b"bytez").unwrap();
    fs::rename(bench.folder.path().join("new"), bench.path()).unwrap();
    assert_eq!(bench.verify().await, Some(Digest::of(b"bytez")));
}

/// Stamps in a folder that other users can write to are ignored, and none are written there.
#[tokio::test]
async fn folder_of_others() {
    let mut bench = Bench::new();
    assert_eq!(bench.verify().await, None);
    bench.stamp_falsely().await;
    set_permissions(bench.folder.path().join("run/stamps"), Permissions::from_mode(0o777)).unwrap();
    assert_eq!(bench.verify().await, Some(Digest::of(b"bytes")));
}

/// A stamp of another format, or a file that is no stamp, is ignored.
#[tokio::test]
async fn other_formats() {
    let mut bench = Bench::new();
    bench.stamp_falsely().await;
    let path = bench.folder.path().join("run/stamps").join(bench.digest.hex());
    let stamp = fs::read_to_string(&path).unwrap();
    for other in [stamp.replace("\"format\":1", "\"format\":2"), "{}".to_owned(), String::new()] {
        assert_ne!(other, stamp);
        fs::write(&path, other).unwrap();
        assert_eq!(bench.verify().await, Some(Digest::of(b"bytes")));
    }
    fs::write(&path, &stamp).unwrap();
    assert_eq!(bench.verify().await, None);
}

/// A copy in memory is hashed every time.
#[tokio::test]
async fn memory() {
    let mut bench = Bench::new();
    bench.stamp_falsely().await;
    let blob = BlobFile { path: None, ..bench.blob() };
    assert_eq!(bench.stamps.verify(&bench.digest, &blob).await.unwrap(), Some(Digest::of(b"bytes")));
}
