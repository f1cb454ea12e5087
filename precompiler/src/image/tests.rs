//! Documents of hostile images, and the reason why each is refused: a row for each reason.

use std::fs;

use prewasi_cache::LayoutStore;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const WASM: &str = r#"{"architecture": "wasm", "os": "wasip1"}"#;
const LINUX: &str = r#"{"architecture": "amd64", "os": "linux"}"#;

/// A layout that documents are written to.
struct Documents {
    folder: TempDir,
    store: LayoutStore,
}

/// The digest and media type that an image record names.
type Target = (Digest, String);

impl Documents {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = LayoutStore::create(folder.path()).unwrap();
        Self { folder, store }
    }

    /// Writes a blob under the digest of other bytes, if `digest` names some.
    fn write_as(&self, digest: Digest, bytes: &[u8]) -> Digest {
        fs::write(self.folder.path().join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        digest
    }

    fn write(&self, document: &str) -> Digest {
        self.write_as(Digest::of(document.as_bytes()), document.as_bytes())
    }

    /// Writes a manifest with this config and these layers.
    fn manifest(&self, config: &str, layers: &[Value]) -> Target {
        let config = json!({ "mediaType": media_type::IMAGE_CONFIG, "digest": self.write(config), "size": 1 });
        self.document(json!({ "schemaVersion": 2, "config": config, "layers": layers }))
    }

    fn document(&self, manifest: Value) -> Target {
        (self.write(&manifest.to_string()), media_type::MANIFEST.to_owned())
    }

    /// Writes an index with these entries.
    fn index(&self, entries: &[Value]) -> Target {
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": entries });
        (self.write(&index.to_string()), media_type::INDEX.to_owned())
    }

    async fn resolve(&self, (target, media_type): Target, wanted: Option<&Platform>) -> Result<Image, ImageError> {
        let record = ImageRecord { name: "a".to_owned(), target, media_type, labels: BTreeMap::new() };
        Image::resolve(&self.store, &record, wanted).await
    }
}

fn layer(media_type: &str) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(media_type.as_bytes()), "size": 1 })
}

fn titled(name: &str) -> Value {
    let annotations = json!({ annotation::TITLE: name });
    json!({ "mediaType": media_type::WASM, "digest": Digest::of(name.as_bytes()), "size": 1, "annotations": annotations })
}

fn entry((digest, media_type): Target, platform: Option<(&str, &str)>) -> Value {
    let platform = platform.map(|(os, architecture)| json!({ "os": os, "architecture": architecture }));
    json!({ "mediaType": media_type, "digest": digest, "size": 1, "platform": platform })
}

/// Every document that cannot be used is refused, and the message says which and why.
#[tokio::test]
async fn documents_are_refused_for_a_reason() {
    let documents = Documents::new();
    let manifest = |config, layers: &[Value]| documents.manifest(config, layers);
    let good = || manifest(WASM, &[layer(media_type::WASM)]);
    let nested = (0..=MAX_INDEX_DEPTH).fold(good(), |inner, _| documents.index(&[entry(inner, None)]));
    let missing = |of: &str| (Digest::of(of.as_bytes()), media_type::MANIFEST.to_owned());
    let config = |digest: &str| json!({ "mediaType": media_type::IMAGE_CONFIG, "digest": digest, "size": 1 });
    let with_config = |config: Value| documents.document(json!({ "schemaVersion": 2, "config": config, "layers": [] }));
    let attestation = json!({
        "mediaType": media_type::MANIFEST, "digest": good().0, "size": 1,
        "annotations": { annotation::REFERENCE_TYPE: annotation::ATTESTATION },
    });
    let blob = |bytes: &str| (documents.write(bytes), media_type::MANIFEST.to_owned());
    let changed = documents.write_as(Digest::of(b"as it was"), b"as it is");
    let sha512 = format!("sha512:{}", "0".repeat(128));
    let wanted = Platform::wasm("wasip2");
    let rows: Vec<(&str, Target, Option<&Platform>, &str)> = vec![
        ("a record of a text", (good().0, "text/plain".to_owned()), None, "is neither a manifest nor an index"),
        ("a record of nothing", missing("nothing"), None, "is not in the content store"),
        ("indexes in indexes", nested, None, "nested more than 3 deep"),
        ("an empty index", documents.index(&[]), None, "has no manifest for wasm or for this machine"),
        (
            "an index for another system",
            documents.index(&[entry(good(), Some(("windows", "amd64")))]),
            None,
            "has no manifest for wasm or for this machine",
        ),
        ("an index of attestations", documents.index(&[attestation]), None, "has no manifest for wasm"),
        (
            "an index without what is wanted",
            documents.index(&[entry(good(), Some(("wasip1", "wasm")))]),
            Some(&wanted),
            "has nothing for platform wasip2/wasm",
        ),
        ("a config of another platform", good(), Some(&wanted), "has nothing for platform wasip2/wasm"),
        (
            "an index whose manifest is missing",
            documents.index(&[entry(missing("x"), None)]),
            None,
            "is not in the content store; pull the image again",
        ),
        (
            "a manifest whose config is missing",
            with_config(config(Digest::of(b"no config").as_str())),
            None,
            "is not in the content store",
        ),
        ("a manifest that is no JSON", blob("{"), None, "is malformed"),
        ("a manifest that is a list", blob("[]"), None, "is malformed"),
        ("a manifest without layers", blob(r#"{"schemaVersion": 2}"#), None, "is malformed"),
        ("a config that is a list", manifest("[]", &[layer(media_type::WASM)]), None, "is malformed"),
        ("a config with a number as its system", manifest(r#"{"os": 1}"#, &[]), None, "is malformed"),
        ("a digest of another algorithm", with_config(config(&sha512)), None, "only sha256 digests are supported"),
        ("a digest that is a path", with_config(config("sha256:../../../etc/passwd")), None, "is malformed"),
        ("a document with other bytes", (changed, media_type::MANIFEST.to_owned()), None, "its bytes hash to"),
        ("a document of 5 MiB", blob(&" ".repeat(5 << 20)), None, "at most 4194304"),
        (
            "a layer of an unknown type",
            manifest(LINUX, &[layer("application/vnd.example")]),
            None,
            "has the unknown type \"application/vnd.example\"",
        ),
        ("wasm without a layer", manifest(WASM, &[]), None, "config says wasip1/wasm, but it has no layer with wasm"),
        (
            "a wasm layer for Linux",
            manifest(LINUX, &[layer(media_type::WASM)]),
            None,
            "is wasm, but the config says linux/amd64",
        ),
    ];
    for (what, target, wanted, reason) in rows {
        let error = documents.resolve(target, wanted).await.expect_err(what);
        assert!(crate::chain(&error).contains(reason), "{what}: {}", crate::chain(&error));
        assert!(error.to_string().contains("image a"), "{what}: {error}");
    }
    assert!(documents.resolve(good(), None).await.is_ok());
}

/// Of several programs the entrypoint chooses one by its title, and nothing is guessed.
#[tokio::test]
async fn programs_are_not_guessed() {
    let documents = Documents::new();
    let target = documents.manifest(WASM, &[titled("a.wasm"), titled("b.wasm")]);
    let image = documents.resolve(target, None).await.unwrap();
    let chosen = |entrypoint| image.content.entry("a", entrypoint).map(|layer| layer.map(|layer| layer.digest.clone()));
    assert_eq!(chosen(Some("/b.wasm")).unwrap(), Some(Digest::of(b"b.wasm")));
    for entrypoint in [None, Some(""), Some("c.wasm"), Some("B.WASM")] {
        let error = chosen(entrypoint).unwrap_err().to_string();
        assert!(error.ends_with("is none of a.wasm, b.wasm"), "{error}");
    }
}

/// The number of look-ups for an index's entries is limited.
#[tokio::test]
async fn entries_have_a_bound() {
    let resolve = async |missing: usize| {
        let documents = Documents::new();
        let target = |text: &str| (Digest::of(text.as_bytes()), media_type::MANIFEST.to_owned());
        let there = (documents.write("no manifest"), media_type::MANIFEST.to_owned());
        let entries = (0..missing).map(|number| target(&number.to_string())).chain([there]);
        let entries: Vec<Value> = entries.map(|target| entry(target, None)).collect();
        documents.resolve(documents.index(&entries), None).await.unwrap_err()
    };
    let found = resolve(MAX_CANDIDATES - 1).await;
    assert!(matches!(found, ImageError::Malformed { what: "manifest", .. }), "{found:?}");
    let passed_over = resolve(MAX_CANDIDATES).await;
    assert!(matches!(passed_over, ImageError::MissingBlob { what: "manifest", .. }), "{passed_over:?}");
}
