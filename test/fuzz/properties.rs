//! Properties that must hold for every input, however hostile. Nothing panics. A value that was read and written down again is read as the
//! same value.
//!
//! `cargo fuzz` looks for inputs that break a property, with the targets in `fuzz_targets/`. The ordinary tests try the inputs in
//! `corpus/`, with these same functions. An input that once broke a property stays there.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use oci_tar_builder::Reference;
use prewasi_cache::{
    AnchorLabel, BlobFile, BlobInfo, ContentStore, Digest, ImageRecord, Lease, Lock, NewBlob, StoreError,
};
use prewasi_engines::{Wasm, WasmKind};
use prewasi_precompiler::{Content, Image, Options, Place, is_named_wasm, split_function};

/// A reference that is understood is printed so that it is understood as the same one.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(reference) = text.parse::<Reference>() else { return };
    let printed = reference.to_string();
    let again: Reference = printed.parse().unwrap_or_else(|error| panic!("{text:?} became {printed:?}: {error}"));
    assert_eq!(again, reference, "{text:?} became {printed:?}");
    assert!(!reference.path().split('/').any(|part| matches!(part, "" | "." | "..")), "{text:?} names a folder");
}

/// A label that is understood is one that we would have written, to the letter. (First line: the key; second: a value.)
pub fn labels(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (key, value) = text.split_once('\n').unwrap_or((text, ""));
    if let Some(label) = AnchorLabel::parse_leading(key) {
        assert_eq!(label.leading(), key);
        assert_eq!(AnchorLabel::parse_keeping(&label.keeping()), Some(label));
    }
    if let Some(label) = AnchorLabel::parse_keeping(key) {
        assert_eq!(label.keeping(), key);
        assert_eq!(AnchorLabel::parse_leading(&label.leading()), Some(label));
    }
    if let Ok(digest) = value.parse::<Digest>() {
        assert_eq!(digest.as_str(), value);
        assert!(digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()), "a digest is part of paths");
    }
    let labels = [(key.to_owned(), value.to_owned())].into();
    let blob = BlobInfo { digest: Digest::of(b""), size: 0, labels, created: None };
    // One label alone never vouches for anything.
    let anchor = Digest::of(b"anchor");
    for label in [AnchorLabel::parse_leading(key), AnchorLabel::parse_keeping(key)].into_iter().flatten() {
        assert_eq!(label.claim(&anchor, &blob), None, "{text:?}");
    }
}

/// For any documents of an image, the answer is an error or a list of layers. (Lines `---` separate the documents. Their order is that of
/// the requests: index or manifest, manifest, config.)
pub fn image(data: &[u8]) {
    let documents: Vec<Vec<u8>> = split(data).map(<[u8]>::to_vec).collect();
    for media_type in
        ["application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json", "text/plain"]
    {
        let store = Documents { documents: documents.clone(), asked: Mutex::default() };
        let record = ImageRecord {
            name: "localhost/fuzz:latest".to_owned(),
            target: Digest::of(b"target"),
            media_type: media_type.to_owned(),
            labels: BTreeMap::new(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let Ok(image) = runtime.block_on(Image::resolve(&store, &record, None)) else { continue };
        if let Content::Wasm(layers) = &image.content {
            assert!(!layers.is_empty());
            for layer in layers {
                // The choice is a layer with this title, or an error; never a layer that the image does not have.
                let chosen = image.content.entry(&image.name, layer.title.as_deref());
                assert!(chosen.map_or(true, |layer| layer.is_some_and(|layer| layers.contains(layer))));
            }
        }
        if let Ok(files) = image.data_files() {
            assert!(files.len() <= 64 && image.data.len() == files.len());
            for (number, file) in files.iter().enumerate() {
                // No way leads out of the container, and none is another one's.
                let parts: Vec<_> = file.path.components().skip(1).collect();
                assert!(file.path.is_absolute() && !parts.is_empty(), "{}", file.path.display());
                assert!(parts.iter().all(|part| matches!(part, std::path::Component::Normal(_))));
                let clear = |other: &prewasi_precompiler::DataFile| {
                    !other.path.starts_with(&file.path) && !file.path.starts_with(&other.path)
                };
                assert!(files[..number].iter().all(clear), "{}", file.path.display());
            }
        }
        let asked = store.asked.into_inner().expect("no holder panics").len();
        assert!(asked <= 8, "{asked} documents were read");
        // How it starts is read too, and may be an error.
        let store = Documents { documents: documents.iter().rev().cloned().collect(), asked: Mutex::default() };
        let _ = runtime.block_on(image.process(&store));
    }
}

/// Bytes are a module or a component by their beginning, and are kept as they are; text becomes one of them or an error.
pub fn wasm(data: &[u8]) {
    let kind = WasmKind::of(data);
    match Wasm::new(data.to_vec()) {
        Ok(wasm) => assert_eq!((Some(wasm.kind()), wasm.bytes()), (kind.ok(), data)),
        Err(_) => assert!(kind.is_err()),
    }
    if let Ok(wasm) = Wasm::from_text(data) {
        assert_eq!(WasmKind::of(wasm.bytes()).ok(), Some(wasm.kind()));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let (program, function) = split_function(text);
        let rest = text.strip_prefix(program).expect("the text begins with the program");
        match function {
            Some(function) => assert!(!function.is_empty() && rest.strip_prefix('#') == Some(function), "{text:?}"),
            None => assert!(matches!(rest, "" | "#"), "{text:?}"),
        }
        let _ = is_named_wasm(program);
    }
}

/// Options are taken as a whole or refused; an error leaves the earlier options unchanged.
pub fn options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut options = Options::default();
    if options.set_toml(text, &Place::Runtime).is_err() {
        assert_eq!(format!("{options:?}"), format!("{:?}", Options::default()), "{text:?}");
    }
    let (key, value) = text.split_once('\n').unwrap_or((text, ""));
    let mut options = Options::default();
    let _ = options.set_annotations([(&key.to_owned(), &value.to_owned())]);
}

fn split(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    const LINE: &[u8] = b"\n---\n";
    let mut rest = Some(data);
    std::iter::from_fn(move || {
        let all = rest.take()?;
        let Some(at) = all.windows(LINE.len()).position(|window| window == LINE) else { return Some(all) };
        rest = Some(&all[at + LINE.len()..]);
        Some(&all[..at])
    })
}

/// A store that answers the first request for a blob with the first document, the second with the second, and so on. Other tests check
/// digests.
struct Documents {
    documents: Vec<Vec<u8>>,
    asked: Mutex<Vec<Digest>>,
}

impl Documents {
    fn document(&self, digest: &Digest) -> Result<&[u8], StoreError> {
        let mut asked = self.asked.lock().expect("no holder panics");
        let number = asked.iter().position(|known| known == digest).unwrap_or_else(|| {
            asked.push(digest.clone());
            asked.len() - 1
        });
        let document = self.documents.get(number);
        document.map(Vec::as_slice).ok_or_else(|| StoreError::NotFound { subject: format!("blob {digest}") })
    }
}

fn unused<T>() -> Result<T, StoreError> {
    Err(StoreError::NotFound { subject: "what reading an image does not need".to_owned() })
}

#[async_trait]
impl ContentStore for Documents {
    fn describe(&self) -> String {
        "documents of a fuzzer".to_owned()
    }

    async fn info(&self, digest: &Digest) -> Result<Option<BlobInfo>, StoreError> {
        let size = self.document(digest)?.len() as u64;
        Ok(Some(BlobInfo { digest: digest.clone(), size, labels: BTreeMap::new(), created: None }))
    }

    async fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let document = self.document(digest)?;
        let size = document.len() as u64;
        if size > limit {
            Err(StoreError::TooLarge { digest: digest.clone(), size, limit })
        } else {
            Ok(document.to_vec())
        }
    }

    async fn open(&self, _: &Digest) -> Result<BlobFile, StoreError> {
        unused()
    }

    async fn lease(&self, _: Duration) -> Result<Lease, StoreError> {
        unused()
    }

    async fn release(&self, _: Lease) -> Result<(), StoreError> {
        unused()
    }

    async fn write(&self, _: &Lease, _: NewBlob<'_>) -> Result<(), StoreError> {
        unused()
    }

    async fn set_label(&self, _: &Digest, _: &str, _: &str) -> Result<(), StoreError> {
        unused()
    }

    async fn delete(&self, _: &Digest) -> Result<(), StoreError> {
        unused()
    }

    async fn blobs(&self) -> Result<Vec<BlobInfo>, StoreError> {
        unused()
    }

    async fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        unused()
    }

    async fn image(&self, _: &str) -> Result<Option<ImageRecord>, StoreError> {
        unused()
    }

    async fn set_image_label(&self, _: &str, _: &str, _: &str) -> Result<(), StoreError> {
        unused()
    }

    async fn try_lock(&self, _: &str) -> Result<Option<Lock>, StoreError> {
        unused()
    }
}
