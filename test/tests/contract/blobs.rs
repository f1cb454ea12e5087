//! Clauses on blobs: written, found, read, opened, deleted.

use std::os::unix::fs::FileExt;

use prewasi_cache::{Digest, StoreError};

use super::{Subject, file, owned, unique};

/// A blob longer than a gRPC message may be comes back as it was, read and opened; the writer's offset stays.
pub(super) async fn big_blob_comes_back(subject: Subject) {
    let mut bytes = unique("big");
    let mut state = 1_u32;
    bytes.resize_with(17 * 1024 * 1024 + 1, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let digest = Digest::of(&bytes);
    subject.write_file(&digest, &file(&bytes), bytes.len() as u64, &[("key", "value")]).await.expect("it is written");
    let info = subject.store.info(&digest).await.expect("the store answers").expect("it is there");
    assert_eq!((info.digest, info.size, info.labels), (digest.clone(), bytes.len() as u64, owned(&[("key", "value")])));
    assert!(info.created.is_some());
    assert!(subject.opened(&digest).await == bytes, "opened, the blob is another");
    assert!(subject.store.read(&digest, 1 << 30).await.expect("it reads") == bytes, "read, the blob is another");
    subject.assert_no_ingest().await;
    subject.finish().await;
}

/// A blob of no bytes is a blob.
pub(super) async fn empty_blob_comes_back(subject: Subject) {
    let digest = subject.put(b"").await;
    assert_eq!(subject.store.read(&digest, 0).await.expect("it reads"), b"");
    assert_eq!(subject.opened(&digest).await, b"");
    subject.finish().await;
}

/// Writing a blob that is there succeeds; its new labels are set, its other labels stay.
pub(super) async fn existing_blob_is_success(subject: Subject) {
    let bytes = unique("existing");
    let digest = Digest::of(&bytes);
    subject.write(&digest, &bytes, &[("old", "1"), ("both", "1")]).await.expect("it is written");
    subject.write(&digest, &bytes, &[("new", "2"), ("both", "2")]).await.expect("it is written again");
    assert_eq!(subject.labels(&digest).await, owned(&[("both", "2"), ("new", "2"), ("old", "1")]));
    subject.assert_no_ingest().await;
    subject.finish().await;
}

/// Bytes that do not hash to the digest are refused by an error that names their actual digest; nothing is left.
pub(super) async fn wrong_digest_leaves_nothing(subject: Subject) {
    let (bytes, digest) = (unique("wrong"), Digest::of(&unique("another")));
    let error = subject.write(&digest, &bytes, &[]).await.expect_err("it is refused");
    let StoreError::Corrupt { digest: named, actual } = error else { panic!("{error}") };
    assert_eq!((&named, actual), (&digest, Digest::of(&bytes)));
    assert_eq!(subject.store.info(&digest).await.expect("the store answers"), None);
    subject.assert_no_ingest().await;
    subject.finish().await;
}

/// A file that is shorter than was said is an error, and nothing is left.
pub(super) async fn short_file_leaves_nothing(subject: Subject) {
    let bytes = unique("short");
    let digest = Digest::of(&bytes);
    // More than one message, so that something is on its way already.
    let answer = subject.write_file(&digest, &file(&vec![0; 3 << 20]), 4 << 20, &[]).await;
    assert!(matches!(answer, Err(StoreError::Io { .. })), "{answer:?}");
    assert_eq!(subject.store.info(&digest).await.expect("the store answers"), None);
    subject.assert_no_ingest().await;
    subject.finish().await;
}

/// Nobody can write to the blob by way of the opened file, and it begins at offset 0.
pub(super) async fn opened_blob_is_read_only(subject: Subject) {
    let bytes = unique("opened");
    let digest = subject.put(&bytes).await;
    let blob = subject.store.open(&digest).await.expect("it opens");
    assert!(blob.file.write_all_at(b"x", 0).is_err());
    assert!(blob.file.set_len(0).is_err());
    assert_eq!(subject.opened(&digest).await, bytes);
    subject.finish().await;
}

/// A blob longer than the limit is not read; one of exactly that length is.
pub(super) async fn reads_have_a_limit(subject: Subject) {
    let bytes = unique("limited");
    let digest = subject.put(&bytes).await;
    let length = bytes.len() as u64;
    let answer = subject.store.read(&digest, length - 1).await;
    assert!(matches!(answer, Err(StoreError::TooLarge { size, limit, .. }) if size == length && limit == length - 1));
    assert_eq!(subject.store.read(&digest, length).await.expect("it reads"), bytes);
    subject.finish().await;
}

/// A blob whose file was changed is not handed out by `read`.
pub(super) async fn damaged_blob_is_not_read(subject: Subject) {
    let digest = subject.put(&unique("damaged")).await;
    subject.damage(&digest);
    let answer = subject.store.read(&digest, 1 << 20).await;
    assert!(matches!(&answer, Err(StoreError::Corrupt { digest: named, .. }) if *named == digest), "{answer:?}");
    subject.finish().await;
}

/// A blob that is not there: no information, `NotFound` for its bytes, and deleting it is no error.
pub(super) async fn missing_blob_is_not_found(subject: Subject) {
    let digest = Digest::of(&unique("missing"));
    assert_eq!(subject.store.info(&digest).await.expect("the store answers"), None);
    assert!(matches!(subject.store.read(&digest, 10).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(subject.store.open(&digest).await, Err(StoreError::NotFound { .. })));
    subject.store.delete(&digest).await.expect("what is gone can be deleted");
    subject.finish().await;
}

/// A deleted blob is gone at once, although leased; written again it has its bytes and not its old labels.
pub(super) async fn deleted_blob_can_be_written_again(subject: Subject) {
    let bytes = unique("deleted");
    let digest = Digest::of(&bytes);
    subject.write(&digest, &bytes, &[("old", "1")]).await.expect("it is written");
    subject.store.delete(&digest).await.expect("it is deleted");
    assert_eq!(subject.store.info(&digest).await.expect("the store answers"), None);
    subject.write(&digest, &bytes, &[("new", "1")]).await.expect("it is written again");
    assert_eq!(subject.labels(&digest).await, owned(&[("new", "1")]));
    assert_eq!(subject.opened(&digest).await, bytes);
    subject.finish().await;
}

/// Several writers of the same blob at once all succeed, and their labels are all there.
pub(super) async fn writers_of_one_blob_agree(subject: Subject) {
    let mut bytes = unique("agreed");
    bytes.resize(3 << 20, 0);
    let digest = Digest::of(&bytes);
    let write = async |key: &str| subject.write(&digest, &bytes, &[(key, "1")]).await.expect("each succeeds");
    tokio::join!(write("a"), write("b"), write("c"), write("d"));
    assert_eq!(subject.labels(&digest).await, owned(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]));
    subject.assert_no_ingest().await;
    subject.finish().await;
}
