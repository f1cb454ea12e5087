//! Writes many images with native code, as `prewasi precompile` would leave them, without compiling.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::{CreateImageRequest, Image};
use containerd_client::types::Descriptor;
use prewasi_cache::{ArtifactKey, ContainerdStore, ContentStore as _, Digest, Lease, NewBlob, labels};
use prewasi_engines::{Engine as _, Wasmtime, version_label};
use serde_json::json;
use tokio::task::JoinSet;

use crate::namespace::Namespace;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Maximum number of images that are written at the same time.
const AT_ONCE: usize = 8;
/// Lifetime of the lease that keeps blobs until the image record does.
const LEASE: Duration = Duration::from_secs(600);

/// Writes `count` images, each with its own layer and an artifact of this build's wasmtime.
///
/// # Panics
/// If containerd refuses.
pub async fn fill(namespace: &Namespace, count: usize) {
    let store = ContainerdStore::connect(&namespace.daemon().address(), namespace.name()).await;
    let store = store.expect("containerd is reachable");
    let lease = store.lease(LEASE).await.expect("a lease can be had");
    let config = write(&store, &lease, br#"{"architecture":"wasm","os":"wasip1"}"#, []).await;
    let engine = Wasmtime::new();
    let filler = Arc::new(Filler {
        namespace: namespace.clone(),
        version: version_label(&engine),
        fingerprint: engine.fingerprint().hex().to_owned(),
        config,
        store,
        lease,
    });
    let mut tasks = JoinSet::new();
    for first in 0..AT_ONCE {
        let filler = filler.clone();
        tasks.spawn(async move {
            for number in (first..count).step_by(AT_ONCE) {
                filler.write_image(number).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("everything can be written");
    }
    let filler = Arc::into_inner(filler).expect("all tasks have ended");
    filler.store.release(filler.lease).await.expect("a lease can be given back");
}

struct Filler {
    namespace: Namespace,
    store: ContainerdStore,
    lease: Lease,
    /// The config of all images.
    config: Descriptor,
    version: String,
    fingerprint: String,
}

impl Filler {
    async fn write_image(&self, number: usize) {
        let bytes = |kind: &str| format!("{kind} {number} of {}", self.namespace.name()).into_bytes();
        let (layer, code) = (bytes("layer"), bytes("native code"));
        let key = self.key(Digest::of(&layer));
        let artifact = self
            .write(&code, [(labels::SOURCE.to_owned(), key.source.to_string()), (key.label(), key.fingerprint.clone())])
            .await;
        let layer = self
            .write(&layer, [key.keep_label(), key.anchor_label()].map(|label| (label, artifact.digest.clone())))
            .await;
        let children = [("config", &self.config), ("l.0", &layer)];
        let labels =
            children.map(|(name, child)| (format!("containerd.io/gc.ref.content.{name}"), child.digest.clone()));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": self.config.digest, "size": self.config.size },
            "layers": [{ "mediaType": "application/wasm", "digest": layer.digest, "size": layer.size }],
        });
        let target = self.write(manifest.to_string().as_bytes(), labels).await;
        let name = format!("localhost/image-{number:04}:latest");
        let image = Image { name, target: Some(target), labels: HashMap::new(), ..Default::default() };
        let request = CreateImageRequest { image: Some(image), ..Default::default() };
        let answer = self.namespace.client().images().create(self.namespace.request(request)).await;
        answer.expect("an image can be made");
    }

    fn key(&self, source: Digest) -> ArtifactKey {
        ArtifactKey {
            anchor: source.clone(),
            source,
            engine: "wasmtime".to_owned(),
            version: self.version.clone(),
            fingerprint: self.fingerprint.clone(),
        }
    }

    async fn write<const N: usize>(&self, bytes: &[u8], labels: [(String, String); N]) -> Descriptor {
        write(&self.store, &self.lease, bytes, labels).await
    }
}

/// Writes a blob. Its descriptor has the media type of a manifest, because only a manifest's type matters here.
async fn write<const N: usize>(
    store: &ContainerdStore,
    lease: &Lease,
    bytes: &[u8],
    labels: [(String, String); N],
) -> Descriptor {
    let (digest, size, file) = (Digest::of(bytes), bytes.len() as u64, file(bytes));
    let blob = NewBlob { digest: &digest, size, file: &file, labels: &BTreeMap::from(labels) };
    store.write(lease, blob).await.expect("a blob can be written");
    let (digest, size) = (digest.to_string(), size.cast_signed());
    Descriptor { media_type: MANIFEST.to_owned(), digest, size, ..Default::default() }
}

fn file(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().expect("there is room for temporary files");
    file.write_all_at(bytes, 0).expect("there is room for temporary files");
    file
}
