use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;
use crate::LayoutStore;

/// A cache in an empty layout.
struct Bench {
    folder: TempDir,
    store: Arc<LayoutStore>,
    cache: ArtifactCache,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LayoutStore::create(&folder.path().join("layout")).unwrap());
        let cache = ArtifactCache::new(store.clone(), folder.path().join("stamps"));
        Self { folder, store, cache }
    }

    async fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let lease = self.store.lease(Duration::from_secs(60)).await.unwrap();
        let (file, size, labels) = (file(bytes), bytes.len() as u64, BTreeMap::new());
        self.store.write(&lease, NewBlob { digest: &digest, size, file: &file, labels: &labels }).await.unwrap();
        digest
    }

    async fn store(&self, key: &ArtifactKey, code: &[u8]) -> Result<Artifact, StoreError> {
        self.cache.store(key, &file(code), code.len() as u64, &BTreeMap::new()).await
    }

    async fn labels(&self, digest: &Digest) -> BTreeMap<String, String> {
        self.store.info(digest).await.unwrap().unwrap().labels
    }

    /// Returns the result of a look-up: the artifact's bytes, or the reason for the miss.
    async fn lookup(&self, key: &ArtifactKey) -> Result<Vec<u8>, MissReason> {
        match self.cache.lookup(key).await.unwrap() {
            Lookup::Hit(artifact) => Ok(bytes(&artifact)),
            Lookup::Miss(reason) => Err(reason),
        }
    }

    /// Changes a blob's file in place, without changing its length.
    fn damage(&self, digest: &Digest) {
        let path = self.folder.path().join("layout/blobs/sha256").join(digest.hex());
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        File::options().write(true).open(&path).unwrap().write_all(&bytes).unwrap();
    }
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn bytes(artifact: &Artifact) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(artifact.blob.size).unwrap()];
    std::os::unix::fs::FileExt::read_exact_at(&artifact.blob.file, &mut bytes, 0).unwrap();
    bytes
}

fn key(source: &Digest, engine: &str, version: &str) -> ArtifactKey {
    ArtifactKey {
        source: source.clone(),
        anchor: source.clone(),
        engine: engine.to_owned(),
        version: version.to_owned(),
        fingerprint: Digest::of(version.as_bytes()).hex().to_owned(),
    }
}

/// A stored artifact is found, and source and artifact have exactly the labels of the contract.
#[tokio::test]
async fn stores_and_finds() {
    let bench = Bench::new();
    let source = bench.put(b"wasm").await;
    let key = key(&source, "wasmtime", "48.0.8-0123456789ab");
    let details = BTreeMap::from([("runwasi.io/target".to_owned(), "x86_64".to_owned())]);
    let stored = bench.cache.store(&key, &file(b"code"), 4, &details).await.unwrap();
    assert_eq!((stored.digest.clone(), bytes(&stored)), (Digest::of(b"code"), b"code".to_vec()));
    assert_eq!(bench.lookup(&key).await, Ok(b"code".to_vec()));
    let artifact = stored.digest.to_string();
    let expected = [
        ("runwasi.io/precompiled/wasmtime/48.0.8-0123456789ab", artifact.as_str()),
        ("containerd.io/gc.ref.content.precompiled.wasmtime.48.0.8-0123456789ab", artifact.as_str()),
    ];
    assert_eq!(bench.labels(&source).await, owned(&expected));
    let expected = [
        ("runwasi.io/precompiled", source.as_str()),
        ("runwasi.io/precompiled/wasmtime/48.0.8-0123456789ab", key.fingerprint.as_str()),
        ("runwasi.io/target", "x86_64"),
    ];
    assert_eq!(bench.labels(&stored.digest).await, owned(&expected));
}

fn owned(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A source without an artifact is a miss, and so is a source that does not exist.
#[tokio::test]
async fn absent() {
    let bench = Bench::new();
    let source = bench.put(b"wasm").await;
    assert_eq!(bench.lookup(&key(&source, "wasmtime", "1-a")).await, Err(MissReason::Absent));
    assert_eq!(bench.lookup(&key(&Digest::of(b"gone"), "wasmtime", "1-a")).await, Err(MissReason::Absent));
}

/// A label that names a missing blob, or no digest, is a miss; storing repairs it.
#[tokio::test]
async fn dangling() {
    let bench = Bench::new();
    let source = bench.put(b"wasm").await;
    let key = key(&source, "wasmtime", "1-a");
    for value in ["sha256:../../../etc/passwd", Digest::of(b"gone").as_str()] {
        bench.store.set_label(&source, &key.anchor_label(), value).await.unwrap();
        assert_eq!(bench.lookup(&key).await, Err(MissReason::Dangling), "{value}");
    }
    bench.store(&key, b"code").await.unwrap();
    assert_eq!(bench.lookup(&key).await, Ok(b"code".to_vec()));
    bench.store.delete(&Digest::of(b"code")).await.unwrap();
    assert_eq!(bench.lookup(&key).await, Err(MissReason::Dangling));
}

/// A blob that the anchor's label names is not used if its own labels do not name this source and this fingerprint.
#[tokio::test]
async fn foreign() {
    let bench = Bench::new();
    let source = bench.put(b"wasm").await;
    let key = key(&source, "wasmtime", "1-a");
    let planted = bench.put(b"planted").await;
    bench.store.set_label(&source, &key.anchor_label(), planted.as_str()).await.unwrap();
    assert_eq!(bench.lookup(&key).await, Err(MissReason::Foreign));
    bench.store.set_label(&planted, labels::SOURCE, source.as_str()).await.unwrap();
    assert_eq!(bench.lookup(&key).await, Err(MissReason::Foreign));
    bench.store.set_label(&planted, &key.label(), "another fingerprint").await.unwrap();
    assert_eq!(bench.lookup(&key).await, Err(MissReason::Foreign));
    bench.store.set_label(&planted, &key.label(), &key.fingerprint).await.unwrap();
    assert_eq!(bench.lookup(&key).await, Ok(b"planted".to_vec()));
    bench.store.set_label(&planted, labels::SOURCE, Digest::of(b"another").as_str()).await.unwrap();
    assert_eq!(bench.lookup(&key).await, Err(MissReason::Foreign));
}

/// A byte changed in place is noticed although the artifact was verified before; storing replaces the blob.
#[tokio::test]
async fn corrupt() {
    let bench = Bench::new();
    let source = bench.put(b"wasm").await;
    let key = key(&source, "wasmtime", "1-a");
    let digest = bench.store(&key, b"code").await.unwrap().digest;
    bench.damage(&digest);
    assert_eq!(bench.lookup(&key).await, Err(MissReason::Corrupt(digest.clone())));
    let stored = bench.store(&key, b"code").await.unwrap();
    assert_eq!(bytes(&stored), b"code");
    assert_eq!(bench.lookup(&key).await, Ok(b"code".to_vec()));
}

/// Artifacts of different engines and versions coexist: storing one does not change the others.
#[tokio::test]
async fn side_by_side() {
    let bench = Bench::new();
    let source = bench.put(b"wasm").await;
    let keys = [("wasmtime", "1-a"), ("wasmtime", "2-a"), ("wasmer", "1-a")].map(|(e, v)| key(&source, e, v));
    for key in &keys {
        assert_eq!(bench.lookup(key).await, Err(MissReason::Absent));
        bench.store(key, key.label().as_bytes()).await.unwrap();
    }
    for key in &keys {
        assert_eq!(bench.lookup(key).await, Ok(key.label().into_bytes()));
    }
}

/// Files of one image, which share its manifest as anchor, do not overwrite each other.
#[tokio::test]
async fn several_files_of_one_image() {
    let bench = Bench::new();
    let manifest = bench.put(b"manifest").await;
    let keys =
        [b"one", b"two"].map(|wasm| ArtifactKey { anchor: manifest.clone(), ..key(&Digest::of(wasm), "e", "1-a") });
    for key in &keys {
        bench.store(key, key.source.as_str().as_bytes()).await.unwrap();
    }
    for key in &keys {
        assert_eq!(bench.lookup(key).await, Ok(key.source.as_str().as_bytes().to_vec()));
    }
    let short = keys[0].source.short();
    let labels = bench.labels(&manifest).await;
    assert!(labels.contains_key(&format!("runwasi.io/precompiled/e/1-a/{short}")), "{labels:?}");
    assert!(labels.contains_key(&format!("containerd.io/gc.ref.content.precompiled.e.1-a.{short}")), "{labels:?}");
}

/// Two sources that compile to the same bytes share the artifact; neither evicts the other.
#[tokio::test]
async fn same_code_of_two_sources() {
    let bench = Bench::new();
    let keys = [key(&bench.put(b"one").await, "e", "1-a"), key(&bench.put(b"two").await, "e", "1-a")];
    for key in keys.iter().chain(&keys) {
        bench.store(key, b"code").await.unwrap();
    }
    for key in &keys {
        assert_eq!(bench.lookup(key).await, Ok(b"code".to_vec()));
    }
    assert_eq!(bench.labels(&Digest::of(b"code")).await[labels::SOURCE], keys[0].source.as_str());
}

/// Without its anchor an artifact cannot be stored, and the error names the anchor.
#[tokio::test]
async fn no_anchor() {
    let bench = Bench::new();
    let error = bench.store(&key(&Digest::of(b"gone"), "e", "1-a"), b"code").await.unwrap_err();
    assert!(
        matches!(&error, StoreError::NotFound { subject } if subject.contains(Digest::of(b"gone").as_str())),
        "{error}"
    );
}
