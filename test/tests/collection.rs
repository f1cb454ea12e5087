//! Two engines, two versions, two namespaces, and containerd's collector: each keeps its own, and loses nothing else's.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use prewasi_cache::{ArtifactCache, ArtifactKey, ContainerdStore, Digest, Lookup};
use prewasi_engines::{Engine as _, Wasmtime, version_label};
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Imported, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(versions_stand_beside_each_other_and_a_rollback_finds_its_own),
        case!(engines_stand_beside_each_other),
        case!(namespaces_keep_their_own),
    ]
}

fn demo(namespace: &Namespace, program: &Program) -> Imported {
    image::import(namespace, "demo", |image| image.layer(program.layer("demo.wasm")))
}

async fn cache(namespace: &Namespace) -> ArtifactCache {
    let store = ContainerdStore::connect(&namespace.daemon().address(), namespace.name()).await;
    ArtifactCache::new(Arc::new(store.expect("containerd is reachable")), namespace.folder().join("stamps"))
}

fn key(program: &Program, engine: &str, version: &str) -> ArtifactKey {
    let source: Digest = program.digest.parse().expect("it is a digest");
    let (_, short) = version.rsplit_once('-').expect("a version ends with a fingerprint");
    let fingerprint = format!("{short}{}", "0".repeat(64 - short.len()));
    ArtifactKey { anchor: source.clone(), source, engine: engine.to_owned(), version: version.to_owned(), fingerprint }
}

/// Returns the key of the artifact that this build compiles.
fn own(program: &Program) -> ArtifactKey {
    let engine = Wasmtime::new();
    let fingerprint = engine.fingerprint().hex().to_owned();
    ArtifactKey { fingerprint, ..key(program, "wasmtime", &version_label(&engine)) }
}

/// Stores code as another engine, or another version of this one, would have done.
async fn store(cache: &ArtifactCache, key: &ArtifactKey) -> Digest {
    let code = format!("code of {} {} for {}", key.engine, key.version, key.source);
    let file: File = tempfile::tempfile().expect("there is room for temporary files");
    file.write_all_at(code.as_bytes(), 0).expect("there is room for temporary files");
    cache.store(key, &file, code.len() as u64, &BTreeMap::new()).await.expect("it is stored").digest
}

async fn found(cache: &ArtifactCache, key: &ArtifactKey) -> Option<Digest> {
    match cache.lookup(key).await.expect("containerd answers") {
        Lookup::Hit(artifact) => Some(artifact.digest),
        Lookup::Miss(_) => None,
    }
}

async fn run(namespace: &Namespace, program: &Program, image: &Imported) -> usize {
    let exited = namespace.container(&image.name).args(&["exit", "7"]).run().await;
    assert_eq!(exited.code, 7);
    namespace.daemon().journal().compiles(&program.digest).len()
}

/// Asserts that the collector keeps both the artifact of another engine or version, and the artifact of this build beside it. Both go
/// together with the image.
async fn assert_independent(namespace: &Namespace, engine: &str, version: &str) {
    let program = Program::guest(namespace, DEMO);
    let image = demo(namespace, &program);
    let cache = cache(namespace).await;
    let other = key(&program, engine, version);
    let theirs = store(&cache, &other).await;
    assert_eq!(run(namespace, &program, &image).await, 1, "what is not ours is not used");
    let ours = found(&cache, &own(&program)).await.expect("it was compiled");
    namespace.collect_garbage().await;
    assert_eq!(found(&cache, &other).await.as_ref(), Some(&theirs), "the other one goes back to its code");
    assert_eq!(found(&cache, &own(&program)).await.as_ref(), Some(&ours));
    assert_eq!(run(namespace, &program, &image).await, 1);
    namespace.remove_image(&image.name).await;
    for digest in [theirs, ours] {
        assert_eq!(namespace.blob(digest.as_str()).await, None);
    }
}

/// An upgrade compiles anew beside the old code; after a rollback the old version finds its code again.
async fn versions_stand_beside_each_other_and_a_rollback_finds_its_own(namespace: Namespace) {
    assert_independent(&namespace, "wasmtime", "47.0.2-bbbbbbbbbbbb").await;
}

/// Two engines have code of the same layer, each its own.
async fn engines_stand_beside_each_other(namespace: Namespace) {
    assert_independent(&namespace, "wasmer", "7.4.0-cccccccccccc").await;
}

/// Two namespaces have the same layer: each compiles and labels for itself, and a loss in one does not affect the other.
async fn namespaces_keep_their_own(namespace: Namespace) {
    let other = namespace.another().await;
    let program = Program::guest(&namespace, DEMO);
    let (image, copy) = (demo(&namespace, &program), demo(&other, &program));
    assert_eq!(run(&namespace, &program, &image).await, 1);
    assert_eq!(found(&cache(&other).await, &own(&program)).await, None, "labels are a namespace's own");
    assert_eq!(run(&other, &program, &copy).await, 2);
    namespace.remove_image(&image.name).await;
    assert_eq!(namespace.blob(&program.digest).await, None);
    other.collect_garbage().await;
    assert!(found(&cache(&other).await, &own(&program)).await.is_some());
    assert_eq!(run(&other, &program, &copy).await, 2);
    other.clear().await;
    other.assert_clean().await;
}
