//! The artifact cache on a containerd: its labels, and how it removes damaged blobs.

use std::collections::BTreeMap;

use prewasi_cache::{Artifact, ArtifactCache, ArtifactKey, ContainerdStore, Digest, Lookup, MissReason, StoreError};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};

use super::{Subject, connect, file, owned, unique};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(artifact_lives_with_its_source),
        case!(damaged_artifact_is_replaced),
        case!(damaged_artifact_is_replaced_without_local_files),
        case!(truncated_artifact_is_replaced),
        case!(bytes_kept_by_another_namespace_are_reported),
    ]
}

/// A cache on a containerd, and a source in it.
struct Bench {
    subject: Subject,
    cache: ArtifactCache,
    key: ArtifactKey,
    code: Vec<u8>,
}

impl Bench {
    async fn new(namespace: &Namespace) -> Self {
        Self::on(namespace, Subject::containerd(namespace.clone()).await, unique("code")).await
    }

    async fn on(namespace: &Namespace, subject: Subject, code: Vec<u8>) -> Self {
        let source = subject.put(&unique("wasm")).await;
        let key = ArtifactKey {
            anchor: source.clone(),
            source,
            engine: "wasmtime".to_owned(),
            version: "48.0.8-0123456789ab".to_owned(),
            fingerprint: format!("0123456789ab{}", "0".repeat(52)),
        };
        let cache = ArtifactCache::new(subject.store.clone(), namespace.folder().join("stamps"));
        Self { subject, cache, key, code }
    }

    async fn store(&self) -> Result<Artifact, StoreError> {
        self.cache.store(&self.key, &file(&self.code), self.code.len() as u64, &BTreeMap::new()).await
    }

    async fn lookup(&self) -> Result<Digest, MissReason> {
        match self.cache.lookup(&self.key).await.expect("containerd answers") {
            Lookup::Hit(artifact) => Ok(artifact.digest),
            Lookup::Miss(reason) => Err(reason),
        }
    }

    /// Stores, damages by `damage`, and expects a miss, then a repair.
    async fn repairs(self, damage: impl FnOnce(&Subject, &Digest)) {
        let digest = self.store().await.expect("it is stored").digest;
        assert_eq!(self.lookup().await, Ok(digest.clone()));
        damage(&self.subject, &digest);
        assert_eq!(self.lookup().await, Err(MissReason::Corrupt(digest.clone())));
        self.store().await.expect("it is stored again");
        assert_eq!(self.lookup().await, Ok(digest.clone()));
        assert_eq!(self.subject.opened(&digest).await, self.code);
        self.subject.assert_no_ingest().await;
        self.subject.finish().await;
    }
}

/// The labels are those of the contract; the artifact outlives a collection with its source, and goes with it.
async fn artifact_lives_with_its_source(namespace: Namespace) {
    let bench = Bench::new(&namespace).await;
    let digest = bench.store().await.expect("it is stored").digest;
    let (label, keep) = (
        "runwasi.io/precompiled/wasmtime/48.0.8-0123456789ab",
        "containerd.io/gc.ref.content.precompiled.wasmtime.48.0.8-0123456789ab",
    );
    let source = &bench.key.source;
    let expected = owned(&[(label, digest.as_str()), (keep, digest.as_str())]);
    assert_eq!(namespace.labels(source.as_str()).await, expected);
    let expected = owned(&[("runwasi.io/precompiled", source.as_str()), (label, &bench.key.fingerprint)]);
    assert_eq!(namespace.labels(digest.as_str()).await, expected);
    namespace.collect_garbage().await;
    assert_eq!(bench.lookup().await, Ok(digest.clone()));
    bench.subject.finish().await;
    namespace.collect_garbage().await;
    assert!(namespace.blob(digest.as_str()).await.is_none(), "the artifact outlives its source");
}

/// An artifact whose file was changed in place is a miss although it was verified before, and is then replaced.
async fn damaged_artifact_is_replaced(namespace: Namespace) {
    Bench::new(&namespace).await.repairs(Subject::damage).await;
}

/// So it is where blobs are read over gRPC.
async fn damaged_artifact_is_replaced_without_local_files(namespace: Namespace) {
    let subject = Subject::new_on(&namespace, connect(&namespace).await.without_local_files()).await;
    Bench::on(&namespace, subject, unique("code")).await.repairs(Subject::damage).await;
}

/// An artifact whose file was cut short is a miss, and is then replaced.
async fn truncated_artifact_is_replaced(namespace: Namespace) {
    let path = {
        let namespace = namespace.clone();
        move |digest: &Digest| namespace.daemon().blob_path(digest.as_str())
    };
    let cut = |_: &Subject, digest: &Digest| {
        let file = std::fs::File::options().write(true).open(path(digest)).expect("root may write");
        file.set_len(3).expect("root may write");
    };
    Bench::new(&namespace).await.repairs(cut).await;
}

/// Damaged bytes that another namespace keeps alive cannot be replaced: the error says so, and nothing trusts them.
/// Once the other namespace has let go of them, storing repairs.
async fn bytes_kept_by_another_namespace_are_reported(namespace: Namespace) {
    let address = namespace.daemon().address();
    let beside = ContainerdStore::connect(&address, &format!("{}-keeper", namespace.name())).await;
    let keeper = Subject::new_on(&namespace, beside.expect("containerd is reachable")).await;
    let bench = Bench::new(&namespace).await;
    let digest = bench.store().await.expect("it is stored").digest;
    let kept = keeper.put(&bench.code).await;
    assert_eq!(kept, digest);
    bench.subject.damage(&digest);
    let error = bench.store().await.expect_err("the bytes stay as they are");
    assert!(matches!(&error, StoreError::Corrupt { digest: named, .. } if *named == digest), "{error}");
    assert!(bench.lookup().await.is_err());
    keeper.finish().await;
    bench.store().await.expect("it is stored again");
    assert_eq!(bench.lookup().await, Ok(digest));
    bench.subject.finish().await;
}
