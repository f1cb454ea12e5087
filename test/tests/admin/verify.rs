//! `verify`: every kind of damage is named, and mended by `--repair`.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(verify_repairs_a_changed_byte),
        case!(verify_repairs_a_deleted_blob),
        case!(verify_repairs_a_missing_reference),
        case!(verify_repairs_a_changed_label_of_the_artifact),
        case!(verify_repairs_a_missing_link),
        case!(verify_replaces_what_the_engine_refuses),
        case!(verify_removes_damaged_code_that_it_cannot_compile),
    ]
}

/// A byte that changed in an artifact's file is found, and the artifact compiled anew.
async fn verify_repairs_a_changed_byte(namespace: Namespace) {
    let subject = Subject::new(&namespace).await;
    damage(&namespace, &subject.artifact().await);
    subject.assert_repairs("corrupt").await;
}

/// A label that names a deleted blob is found and removed; the next start compiles.
async fn verify_repairs_a_deleted_blob(namespace: Namespace) {
    let subject = Subject::new(&namespace).await;
    namespace.delete_blob(subject.artifact().await.as_str()).await;
    assert_eq!(subject.states(), ["dangling"]);
    subject.assert_repairs("dangling").await;
}

/// A missing reference for the collector is found and set again, before the collector runs.
async fn verify_repairs_a_missing_reference(namespace: Namespace) {
    let subject = Subject::new(&namespace).await;
    let artifact = subject.artifact().await;
    // A lease holds the artifact until it is mended.
    let lease = namespace.lease().await;
    let resource = containerd_client::services::v1::Resource { id: artifact.to_string(), r#type: "content".to_owned() };
    let request = containerd_client::services::v1::AddResourceRequest { id: lease.clone(), resource: Some(resource) };
    namespace.client().leases().add_resource(namespace.request(request)).await.expect("a blob can be leased");
    namespace.set_label(subject.layer.as_str(), &subject.keep, "").await;
    let output = namespace.prewasi("verify", &[]).fails_with(1);
    assert!(output.stdout.contains("no label keeps it from the garbage collector"), "{output}");
    let repaired = subject.json("verify", &["--repair"]);
    assert_eq!(problems(&repaired), [("unkept".to_owned(), true)]);
    namespace.release(lease).await;
    namespace.collect_garbage().await;
    assert!(subject.is_there(&artifact).await, "the collector took it");
    assert_eq!(namespace.labels(subject.layer.as_str()).await[&subject.keep], artifact.as_str());
    namespace.prewasi("verify", &[]).success();
}

/// An artifact whose own label was changed is trusted by nobody, and compiled anew.
async fn verify_repairs_a_changed_label_of_the_artifact(namespace: Namespace) {
    let subject = Subject::new(&namespace).await;
    namespace.set_label(subject.artifact().await.as_str(), &subject.label, &"0".repeat(64)).await;
    assert_eq!(subject.states(), ["foreign"]);
    subject.assert_repairs("labels").await;
}

/// An artifact to which no label leads any more is found by the label that keeps it, and linked again.
async fn verify_repairs_a_missing_link(namespace: Namespace) {
    let subject = Subject::new(&namespace).await;
    namespace.set_label(subject.layer.as_str(), &subject.label, "").await;
    subject.assert_repairs("unlinked").await;
}

/// Bytes that are rightly labelled and rightly hashed, but that the engine does not load, are compiled anew.
async fn verify_replaces_what_the_engine_refuses(namespace: Namespace) {
    let subject = Subject::new(&namespace).await;
    let engine = Wasmtime::new();
    let fingerprint = engine.fingerprint().hex().to_owned();
    let key = ArtifactKey { fingerprint, ..key(&subject.layer, &version_label(&engine)) };
    let cache = ArtifactCache::new(subject.store.clone(), namespace.folder().join("stamps"));
    let junk = cache.store(&key, &file(b"no native code"), 14, &BTreeMap::new()).await.expect("it is stored").digest;
    assert_eq!(subject.artifact().await, junk);
    subject.assert_repairs("header").await;
    assert_ne!(subject.artifact().await, junk);
}

/// Damaged code of another version is removed with its labels: this build cannot compile it, its own build will.
async fn verify_removes_damaged_code_that_it_cannot_compile(namespace: Namespace) {
    let subject = Subject::new(&namespace).await;
    let old = subject.superseded(OLD[0]).await;
    damage(&namespace, &old);
    subject.assert_repairs("corrupt").await;
    assert!(!subject.is_there(&old).await);
}
