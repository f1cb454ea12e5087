//! Clauses on labels of blobs.

use prewasi_cache::{Digest, StoreError};

use super::{Subject, owned, unique};

/// A label is set without touching any other, with any dots and slashes in its key.
pub(super) async fn one_label_at_a_time(subject: Subject) {
    let digest = subject.put(&unique("labelled")).await;
    let labels = [
        ("containerd.io/gc.ref.content.precompiled.wasmtime.48.0.8-0123456789ab", "1"),
        ("plain", "2"),
        ("runwasi.io/precompiled", "3"),
        ("runwasi.io/precompiled/wasmtime/48.0.8-0123456789ab", "4"),
    ];
    for (key, value) in labels {
        subject.store.set_label(&digest, key, value).await.expect("a label is set");
    }
    assert_eq!(subject.labels(&digest).await, owned(&labels));
    subject.store.set_label(&digest, "plain", "5").await.expect("a label is changed");
    assert_eq!(subject.labels(&digest).await["plain"], "5");
    subject.finish().await;
}

/// An empty value removes the key, and that of a label which is not there is no error.
pub(super) async fn empty_value_removes_the_label(subject: Subject) {
    let digest = subject.put(&unique("unlabelled")).await;
    for (key, value) in [("a/b.c", "1"), ("other", "1"), ("a/b.c", ""), ("never", "")] {
        subject.store.set_label(&digest, key, value).await.expect("a label is set or removed");
    }
    assert_eq!(subject.labels(&digest).await, owned(&[("other", "1")]));
    subject.finish().await;
}

/// Key and value may have 4096 bytes together and not one more, in whichever way the label comes.
pub(super) async fn long_label_is_refused(subject: Subject) {
    let bytes = unique("long");
    let digest = subject.put(&bytes).await;
    let (longest, longer) = ("v".repeat(4093), "v".repeat(4094));
    subject.store.set_label(&digest, "key", &longest).await.expect("the longest is accepted");
    let answer = subject.store.set_label(&digest, "key", &longer).await;
    assert!(matches!(&answer, Err(StoreError::LabelTooLong { key, .. }) if key == "key"), "{answer:?}");
    let answer = subject.write(&digest, &bytes, &[("key", &longer)]).await;
    assert!(matches!(answer, Err(StoreError::LabelTooLong { .. })), "{answer:?}");
    let answer = subject.store.set_image_label("image", &"k".repeat(5000), "").await;
    assert!(matches!(&answer, Err(StoreError::LabelTooLong { key, .. }) if key.len() < 100), "{answer:?}");
    assert_eq!(subject.labels(&digest).await, owned(&[("key", &longest)]));
    subject.finish().await;
}

/// Labels that are set at the same time are all there afterwards.
pub(super) async fn simultaneous_labels_all_stay(subject: Subject) {
    let digest = subject.put(&unique("simultaneous")).await;
    let set = async |key: &str| subject.store.set_label(&digest, key, "1").await.expect("a label is set");
    tokio::join!(set("a"), set("b"), set("c"), set("d"), set("e"), set("f"));
    assert_eq!(subject.labels(&digest).await.len(), 6);
    subject.finish().await;
}

/// A blob that does not exist cannot be labelled.
pub(super) async fn label_without_blob_is_not_found(subject: Subject) {
    let answer = subject.store.set_label(&Digest::of(&unique("missing")), "key", "1").await;
    assert!(matches!(answer, Err(StoreError::NotFound { .. })), "{answer:?}");
    let answer = subject.store.set_image_label("nobody/knows:this", "key", "1").await;
    assert!(matches!(answer, Err(StoreError::NotFound { .. })), "{answer:?}");
    subject.finish().await;
}

/// All blobs are listed, each with its size and all of its labels.
pub(super) async fn blobs_are_listed_with_labels(subject: Subject) {
    let (one, two) = (unique("one"), unique("number two"));
    let labels = [("runwasi.io/precompiled", "2"), ("runwasi.io/precompiled/e/1.0", "1")];
    subject.write(&Digest::of(&one), &one, &[]).await.expect("it is written");
    subject.write(&Digest::of(&two), &two, &labels).await.expect("it is written");
    let found = subject.store.blobs().await.expect("the store answers");
    let listed = |bytes: &[u8]| {
        let info = found.iter().find(|info| info.digest == Digest::of(bytes)).expect("it is listed");
        (info.size, info.labels.clone())
    };
    assert_eq!(found.len(), 2);
    assert_eq!(listed(&one), (one.len() as u64, owned(&[])));
    assert_eq!(listed(&two), (two.len() as u64, owned(&labels)));
    subject.finish().await;
}
