//! Tests with an index that has too many entries.

use std::fs;

use prewasi_cache::LayoutStore;
use serde_json::json;

use super::*;

/// Makes a layout with an index: `missing` entries whose blobs do not exist, then one that exists. Returns the result of reading it.
async fn resolve(missing: usize) -> Result<Image, ImageError> {
    let folder = tempfile::tempdir().unwrap();
    let store = LayoutStore::create(folder.path()).unwrap();
    let write = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(folder.path().join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        digest
    };
    let entry = |digest: Digest| json!({ "mediaType": media_type::MANIFEST, "digest": digest.as_str(), "size": 1 });
    let entries = (0..missing).map(|number| Digest::of(number.to_string().as_bytes())).chain([write(b"no manifest")]);
    let manifests: Vec<_> = entries.map(entry).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": manifests });
    let target = write(index.to_string().as_bytes());
    let media_type = media_type::INDEX.to_owned();
    let record = ImageRecord { name: "a".to_owned(), target, media_type, labels: BTreeMap::new() };
    Image::resolve(&store, &record, None).await
}

/// The number of look-ups for an index's entries is limited.
#[tokio::test]
async fn entries_have_a_bound() {
    let found = resolve(MAX_CANDIDATES - 1).await.unwrap_err();
    assert!(matches!(found, ImageError::Malformed { what: "manifest", .. }), "{found:?}");
    let passed_over = resolve(MAX_CANDIDATES).await.unwrap_err();
    assert!(matches!(passed_over, ImageError::MissingBlob { what: "manifest", .. }), "{passed_over:?}");
}
