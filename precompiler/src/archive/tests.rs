use super::*;

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;

/// A tar under construction.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn empty() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Makes a tar with the documents of a layout.
    fn layout() -> Self {
        Self::empty().file("oci-layout", LAYOUT).file("index.json", INDEX)
    }

    fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, bytes)
    }

    /// Writes the name unchecked: the tar crate refuses some of the tested names.
    fn entry(mut self, kind: EntryType, name: &str, bytes: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o777);
        header.set_size(bytes.len() as u64);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("/etc/passwd").expect("a link's name");
        }
        header.set_cksum();
        self.0.append(&header, bytes).expect("memory can be written");
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("memory can be written")
    }

    fn unpack(self) -> Result<TempDir, ArchiveError> {
        unpack_bytes(&self.bytes())
    }
}

fn unpack_bytes(bytes: &[u8]) -> Result<TempDir, ArchiveError> {
    let file = tempfile::NamedTempFile::new().expect("temp file");
    fs::write(file.path(), bytes).expect("write");
    unpack(file.path())
}

fn blob_name(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

/// Lists the content of a folder, recursively.
fn listed(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).expect("list").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            names.extend(listed(&entry.path()).into_iter().map(|inner| format!("{name}/{inner}")));
        } else {
            names.push(name);
        }
    }
    names.sort();
    names
}

#[track_caller]
fn assert_entry_refused(tar: Tar, name: &str, said: &str) {
    match tar.unpack() {
        Err(ArchiveError::Entry { entry, reason, .. }) => {
            assert_eq!(entry, name);
            assert!(reason.contains(said), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

/// Layout, index and blobs are unpacked into a folder that others cannot enter, and that is removed on drop.
#[test]
fn unpacks_a_layout() {
    let blob = blob_name(b"bytes");
    let folder = Tar::layout().file(&format!("./{blob}"), b"bytes").unpack().expect("a good archive");
    assert_eq!(listed(folder.path()), [blob.as_str(), "index.json", "oci-layout"]);
    assert_eq!(fs::read(folder.path().join(&blob)).expect("blob"), b"bytes");
    assert_eq!(fs::metadata(folder.path()).expect("folder").permissions().mode() & 0o777, 0o700);
    let path = folder.path().to_owned();
    drop(folder);
    assert!(!path.exists());
}

/// Entries with other names are skipped: paths that lead out, labels of prewasi, other digests, long names.
#[test]
fn passes_over_other_names() {
    let names = [
        "../escaped",
        "/tmp/prewasi-escaped",
        ".prewasi/labels/00.json",
        "blobs/sha256/../../../escaped",
        "blobs/sha256/00",
        "blobs/sha512/00",
        "blobs/sha256",
        "manifest.json",
        "oci-layout/x",
    ];
    let mut tar = Tar::layout();
    for name in names {
        tar = tar.file(name, b"hostile");
    }
    tar = tar.entry(EntryType::GNULongName, "././@LongLink", b"index.json").file("other", b"hostile");
    let folder = tar.entry(EntryType::Symlink, "link", b"").unpack().expect("nothing that matters is wrong");
    assert_eq!(listed(folder.path()), ["index.json", "oci-layout"]);
    assert!(!Path::new("/tmp/prewasi-escaped").exists());
}

/// A blob whose bytes do not match its digest is refused.
#[test]
fn checks_digests() {
    let name = blob_name(b"other");
    assert_entry_refused(Tar::layout().file(&name, b"bytes"), &name, Digest::of(b"bytes").as_str());
}

/// Links, devices and folders do not count as the files of a layout.
#[test]
fn takes_regular_files_only() {
    let blob = blob_name(b"");
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Fifo, EntryType::Directory, EntryType::GNUSparse] {
        for name in ["index.json", blob.as_str()] {
            assert_entry_refused(Tar::empty().entry(kind, name, b""), name, "no regular file");
        }
    }
}

/// A duplicate entry is refused, because readers differ in which one counts.
#[test]
fn takes_nothing_twice() {
    assert_entry_refused(Tar::layout().file("index.json", b"{}"), "index.json", "twice");
    assert_entry_refused(Tar::layout().file("./index.json", b"{}"), "index.json", "twice");
}

/// A document that is too large is refused before it is written.
#[test]
fn bounds_documents() {
    let large = vec![b' '; usize::try_from(DOCUMENT_LIMIT).expect("small") + 1];
    assert_entry_refused(Tar::empty().file("index.json", &large), "index.json", "more than");
}

/// An archive with too many entries, or with an impossible size, is refused.
#[test]
fn bounds_the_whole() {
    let mut tar = Tar::layout();
    for _ in 0..ENTRY_LIMIT {
        tar = tar.file("other", b"");
    }
    assert!(matches!(tar.unpack(), Err(ArchiveError::TooLarge { .. })));
    let name = blob_name(b"");
    let mut bytes = Tar::layout().file(&name, b"").bytes();
    let at = bytes.windows(name.len()).rposition(|window| window == name.as_bytes()).expect("the blob");
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(&bytes[at..at + 512]);
    header.set_size(TOTAL_LIMIT + 1);
    header.set_cksum();
    bytes[at..at + 512].copy_from_slice(header.as_bytes());
    assert!(matches!(unpack_bytes(&bytes), Err(ArchiveError::TooLarge { .. })));
}

/// A file that is no tar, is compressed, truncated, or holds no layout is refused with that reason.
#[test]
fn refuses_other_files() {
    assert!(matches!(unpack_bytes(&[b'x'; 2048]), Err(ArchiveError::Read { .. })));
    assert!(matches!(unpack_bytes(b"\x1f\x8b\x08rest"), Err(ArchiveError::Compressed { .. })));
    assert!(matches!(unpack_bytes(b""), Err(ArchiveError::NotALayout { missing: "oci-layout", .. })));
    let half = Tar::empty().file("oci-layout", LAYOUT);
    assert!(matches!(half.unpack(), Err(ArchiveError::NotALayout { missing: "index.json", .. })));
    let bytes = Tar::layout().file(&blob_name(&[7; 5000]), &[7; 5000]).bytes();
    let cut = unpack_bytes(&bytes[..4000]);
    assert!(matches!(cut, Err(ArchiveError::Entry { .. } | ArchiveError::Read { .. })), "{cut:?}");
    let missing = unpack(Path::new("/no/such.tar"));
    assert!(matches!(missing, Err(ArchiveError::Read { .. })));
}
