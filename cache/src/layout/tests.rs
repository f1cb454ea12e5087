use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

fn layout() -> (TempDir, LayoutStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = LayoutStore::create(folder.path()).unwrap();
    (folder, store)
}

async fn put(store: &LayoutStore, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let lease = store.lease(Duration::from_secs(60)).await.unwrap();
    let labels = BTreeMap::from([("key".to_owned(), "value".to_owned())]);
    store.write(&lease, NewBlob { digest, size: bytes.len() as u64, file: &file, labels: &labels }).await
}

/// Creating a layout twice keeps its content; other programs understand the layout.
#[tokio::test]
async fn creates_once() {
    let (folder, store) = layout();
    let digest = Digest::of(b"blob");
    put(&store, &digest, b"blob").await.unwrap();
    let again = LayoutStore::create(folder.path()).unwrap();
    assert_eq!(again.read(&digest, 10).await.unwrap(), b"blob");
    let parse = |name: &str| serde_json::from_slice::<Value>(&fs::read(folder.path().join(name)).unwrap()).unwrap();
    assert_eq!(parse("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
    assert_eq!(parse("index.json")["schemaVersion"], 2);
}

/// A folder without a layout, with a later version, or with links in place of its folders is not opened.
#[test]
fn refuses_what_is_no_layout() {
    let folder = tempfile::tempdir().unwrap();
    let refused = || matches!(LayoutStore::open(folder.path()), Err(StoreError::Connect { .. }));
    assert!(refused(), "an empty folder");
    fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion": "2.0.0"}"#).unwrap();
    assert!(refused(), "another version");
    fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    assert!(!refused());
    symlink("/etc", folder.path().join("blobs")).unwrap();
    assert!(refused(), "a link for a folder");
}

/// A blob that is a link is not followed.
#[tokio::test]
async fn follows_no_link() {
    let (folder, store) = layout();
    let digest = Digest::of(b"secret");
    symlink("/etc/passwd", folder.path().join("blobs/sha256").join(digest.hex())).unwrap();
    assert!(matches!(store.open(&digest).await, Err(StoreError::Io { .. })));
    assert!(matches!(store.read(&digest, 1 << 20).await, Err(StoreError::Io { .. })));
}

/// Bytes that do not match their digest leave no file, not even a temporary one.
#[tokio::test]
async fn leaves_nothing_half_written() {
    let (folder, store) = layout();
    let answer = put(&store, &Digest::of(b"other"), b"blob").await;
    assert!(matches!(answer, Err(StoreError::Corrupt { actual, .. }) if actual == Digest::of(b"blob")));
    for place in ["blobs/sha256", ".prewasi/tmp"] {
        assert_eq!(fs::read_dir(folder.path().join(place)).unwrap().count(), 0, "{place}");
    }
}

/// A truncated blob is written again instead of counting as stored.
#[tokio::test]
async fn replaces_a_short_blob() {
    let (folder, store) = layout();
    let digest = Digest::of(b"blob");
    fs::write(folder.path().join("blobs/sha256").join(digest.hex()), b"bl").unwrap();
    put(&store, &digest, b"blob").await.unwrap();
    assert_eq!(store.read(&digest, 10).await.unwrap(), b"blob");
}

/// Labels of an unknown format are an error, not an empty map; files that name no blob are skipped.
#[tokio::test]
async fn reads_labels_strictly() {
    let (folder, store) = layout();
    let digest = Digest::of(b"blob");
    put(&store, &digest, b"blob").await.unwrap();
    let labels = folder.path().join(".prewasi/labels");
    fs::write(labels.join("passwd.json"), "{}").unwrap();
    fs::write(folder.path().join("blobs/sha256/passwd"), "").unwrap();
    symlink("/etc/passwd", folder.path().join("blobs/sha256").join(Digest::of(b"link").hex())).unwrap();
    let listed = store.blobs().await.unwrap();
    assert_eq!(listed.iter().map(|info| &info.digest).collect::<Vec<_>>(), [&digest]);
    fs::write(labels.join(format!("{}.json", digest.hex())), r#"{"format": 2, "labels": {}}"#).unwrap();
    assert!(matches!(store.info(&digest).await, Err(StoreError::Malformed { .. })));
}

/// A deleted blob that is stored again does not have its old labels.
#[tokio::test]
async fn forgets_labels_with_the_blob() {
    let (_folder, store) = layout();
    let digest = Digest::of(b"blob");
    put(&store, &digest, b"blob").await.unwrap();
    store.set_label(&digest, "old", "1").await.unwrap();
    store.delete(&digest).await.unwrap();
    put(&store, &digest, b"blob").await.unwrap();
    assert_eq!(store.info(&digest).await.unwrap().unwrap().labels.keys().collect::<Vec<_>>(), ["key"]);
}

/// An image's name is containerd's annotation, else the specification's; a changed label keeps all unknown fields.
#[tokio::test]
async fn names_images() {
    let (folder, store) = layout();
    let target = Digest::of(b"manifest");
    let descriptor = |annotations: Value| json!({"digest": target.as_str(), "size": 8, "annotations": annotations});
    let index = json!({"schemaVersion": 2, "unknown": [1], "manifests": [
        descriptor(json!({"org.opencontainers.image.ref.name": "v1", "io.containerd.image.name": "host/a:v1"})),
        descriptor(json!({"org.opencontainers.image.ref.name": "v2"})),
        {"digest": "sha512:00", "size": 1},
    ]});
    fs::write(folder.path().join("index.json"), index.to_string()).unwrap();
    let names: Vec<_> = store.images().await.unwrap().into_iter().map(|image| image.name).collect();
    assert_eq!(names, ["host/a:v1", "v2"]);
    store.set_image_label("v2", "key", "value").await.unwrap();
    assert_eq!(store.image("v2").await.unwrap().unwrap().labels["key"], "value");
    let changed: Value = serde_json::from_slice(&fs::read(folder.path().join("index.json")).unwrap()).unwrap();
    assert_eq!((&changed["unknown"], &changed["manifests"][0]), (&json!([1]), &index["manifests"][0]));
    store.set_image_label("v2", "key", "").await.unwrap();
    let changed: Value = serde_json::from_slice(&fs::read(folder.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(changed, index);
}
