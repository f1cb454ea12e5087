//! Behaviour of containerd's store alone: leases against its collector, references, copies in memory, ingests.

use std::path::Path;

use containerd_client::services::v1::{
    Container, CreateContainerRequest, DeleteRequest, ListRequest, ListStatusesRequest, WriteAction,
    WriteContentRequest,
};
use prewasi_cache::{ContainerRecord, ContainerdStore, ContentStore, Digest, Extension, Lease, StoreError};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};
use rustix::fs::SealFlags;
use rustix::process::Signal;

use super::{Subject, TTL, connect, unique};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(lease_keeps_a_blob),
        case!(lease_keeps_a_blob_that_was_there),
        case!(label_keeps_a_blob),
        case!(own_files_are_opened),
        case!(copy_in_memory_is_sealed),
        case!(partial_ingest_is_truncated),
        case!(held_ingest_is_waited_for),
        case!(asking_for_a_held_lock_leaves_nothing),
        case!(traces_expire),
        case!(records_are_read),
        case!(nobody_answers),
        case!(restart_is_survived),
        case!(restart_while_writing_is_survived),
    ]
}

/// Lists the refs of all ingests.
pub(super) async fn ingests(namespace: &Namespace) -> Vec<String> {
    let request = namespace.request(ListStatusesRequest::default());
    let answer = namespace.client().content().list_statuses(request).await.expect("containerd answers");
    answer.into_inner().statuses.into_iter().map(|status| status.r#ref).collect()
}

async fn leases(namespace: &Namespace) -> Vec<containerd_client::services::v1::Lease> {
    let request = namespace.request(ListRequest::default());
    namespace.client().leases().list(request).await.expect("containerd answers").into_inner().leases
}

/// Lists the leases that are not `ours`, by id.
pub(super) async fn other_leases(namespace: &Namespace, ours: &Lease) -> Vec<String> {
    leases(namespace).await.into_iter().map(|lease| lease.id).filter(|id| id != ours.id()).collect()
}

/// A leased blob outlives a collection; when the lease is released, the next one takes it.
async fn lease_keeps_a_blob(namespace: Namespace) {
    let subject = Subject::containerd(namespace.clone()).await;
    let digest = subject.put(&unique("leased")).await;
    namespace.collect_garbage().await;
    assert!(namespace.blob(digest.as_str()).await.is_some(), "a leased blob was collected");
    subject.finish().await;
    namespace.collect_garbage().await;
    assert!(namespace.blob(digest.as_str()).await.is_none(), "a released blob is still there");
}

/// Writing a blob that another lease keeps puts it under the new lease as well.
async fn lease_keeps_a_blob_that_was_there(namespace: Namespace) {
    let first = Subject::containerd(namespace.clone()).await;
    let second = Subject::containerd(namespace.clone()).await;
    let bytes = unique("leased twice");
    let digest = first.put(&bytes).await;
    assert_eq!(second.put(&bytes).await, digest);
    first.finish().await;
    namespace.collect_garbage().await;
    assert!(namespace.blob(digest.as_str()).await.is_some(), "the second lease does not hold");
    second.finish().await;
    namespace.collect_garbage().await;
    assert!(namespace.blob(digest.as_str()).await.is_none(), "a released blob is still there");
}

/// A reference in a label keeps a blob as long as it is there.
async fn label_keeps_a_blob(namespace: Namespace) {
    let anchor = Subject::containerd(namespace.clone()).await;
    let writer = Subject::containerd(namespace.clone()).await;
    let source = anchor.put(&unique("source")).await;
    let artifact = writer.put(&unique("artifact")).await;
    let key = "containerd.io/gc.ref.content.precompiled.wasmtime.48.0.8-0123456789ab";
    writer.store.set_label(&source, key, artifact.as_str()).await.expect("a label is set");
    writer.finish().await;
    namespace.collect_garbage().await;
    assert!(namespace.blob(artifact.as_str()).await.is_some(), "a referenced blob was collected");
    anchor.store.set_label(&source, key, "").await.expect("a label is removed");
    namespace.collect_garbage().await;
    assert!(namespace.blob(artifact.as_str()).await.is_none(), "an unreferenced blob is still there");
    anchor.finish().await;
}

/// A blob is opened where it lies, not copied.
async fn own_files_are_opened(namespace: Namespace) {
    let subject = Subject::containerd(namespace.clone()).await;
    let digest = subject.put(&unique("local")).await;
    let blob = subject.store.open(&digest).await.expect("it opens");
    assert_eq!(blob.path, Some(namespace.daemon().blob_path(digest.as_str())));
    subject.finish().await;
}

/// Where containerd's files are out of reach, a blob is a copy in memory that nobody can change. The same holds if the file's length
/// differs from the length that containerd knows.
async fn copy_in_memory_is_sealed(namespace: Namespace) {
    let subject = Subject::new_on(&namespace, connect(&namespace).await.without_local_files()).await;
    let mut bytes = unique("in memory");
    bytes.resize((17 << 20) + 1, 7);
    let digest = subject.put(&bytes).await;
    let blob = subject.store.open(&digest).await.expect("it opens");
    assert_eq!((&blob.path, blob.size), (&None, bytes.len() as u64));
    let seals = rustix::fs::fcntl_get_seals(&blob.file).expect("it is a memfd");
    assert!(seals.contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW), "{seals:?}");
    assert!(subject.opened(&digest).await == bytes, "the copy differs");
    super::blobs::opened_blob_is_read_only(subject).await;
}

/// A new writer overwrites the bytes of an earlier writer under the same ref, and does not append to them.
async fn partial_ingest_is_truncated(namespace: Namespace) {
    let subject = Subject::containerd(namespace.clone()).await;
    let bytes = unique("whole");
    let digest = Digest::of(&bytes);
    let write = begin_write(&namespace, &format!("prewasi-{digest}"), b"something else, and more of it").await;
    drop(write);
    subject.write(&digest, &bytes, &[]).await.expect("it is written");
    assert_eq!(subject.opened(&digest).await, bytes);
    subject.assert_no_ingest().await;
    subject.finish().await;
}

/// A writer waits for another one that is at the same blob.
async fn held_ingest_is_waited_for(namespace: Namespace) {
    let subject = Subject::containerd(namespace.clone()).await;
    let bytes = unique("waited for");
    let digest = Digest::of(&bytes);
    let write = begin_write(&namespace, &format!("prewasi-{digest}"), b"").await;
    let let_go = async {
        // Long enough that the other has been refused at least once.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        drop(write);
    };
    let (answer, ()) = tokio::join!(subject.write(&digest, &bytes, &[]), let_go);
    answer.expect("it is written");
    subject.finish().await;
}

type Write = (
    tokio::sync::mpsc::Sender<WriteContentRequest>,
    tonic::Streaming<containerd_client::services::v1::WriteContentResponse>,
);

/// Opens an ingest, as another program might, and writes `data` to it.
async fn begin_write(namespace: &Namespace, reference: &str, data: &[u8]) -> Write {
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    let (action, data) = (WriteAction::Write.into(), data.to_vec());
    let first = WriteContentRequest { action, r#ref: reference.to_owned(), data, ..Default::default() };
    sender.try_send(first).expect("there is room");
    let request = namespace.request(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let mut answers = namespace.client().content().write(request).await.expect("containerd answers").into_inner();
    answers.message().await.expect("containerd answers").expect("the stream is open");
    (sender, answers)
}

/// However often a held lock is asked for, no lease and no ingest comes of it.
async fn asking_for_a_held_lock_leaves_nothing(namespace: Namespace) {
    let store = connect(&namespace).await;
    let held = store.try_lock("held").await.expect("containerd answers").expect("the lock is free");
    let before = (leases(&namespace).await.len(), ingests(&namespace).await.len());
    assert_eq!(before, (1, 1), "leases and ingests of a held lock");
    for _ in 0..10 {
        assert!(store.try_lock("held").await.expect("containerd answers").is_none());
    }
    assert_eq!((leases(&namespace).await.len(), ingests(&namespace).await.len()), before);
    held.release().await;
    assert_eq!((leases(&namespace).await.len(), ingests(&namespace).await.len()), (0, 0));
}

/// The remains of a killed holder expire, and so does a lease that is never given back.
async fn traces_expire(namespace: Namespace) {
    let subject = Subject::containerd(namespace.clone()).await;
    let mut holder = subject.hold_elsewhere("left");
    holder.kill().expect("the holder can be killed");
    holder.wait().expect("the holder can be waited for");
    let left = leases(&namespace).await;
    assert_eq!(left.len(), 2, "{left:?}");
    for lease in left {
        let expires = lease.labels["containerd.io/gc.expire"].parse::<jiff::Timestamp>().expect("a time in RFC 3339");
        assert!(expires <= jiff::Timestamp::now() + jiff::SignedDuration::from_mins(30), "{expires}");
        if lease.id != subject.lease().id() {
            let request = namespace.request(DeleteRequest { id: lease.id, sync: true });
            namespace.client().leases().delete(request).await.expect("a lease can be ended");
        }
    }
    // With the lease goes the ingest, so that it is as if nobody had ever asked.
    subject.assert_no_ingest().await;
    subject.finish().await;
}

/// Version, namespaces and the images of containers are read; a container that is not there is `NotFound`.
async fn records_are_read(namespace: Namespace) {
    let store = connect(&namespace).await;
    let version = store.version().await.expect("containerd answers");
    let series = namespace.daemon().series().to_string();
    assert!(version.starts_with(series.trim_start_matches("containerd-")), "{version} of {series}");
    for (id, image) in [("with", "localhost/image:v1"), ("without", "")] {
        let runtime = containerd_client::services::v1::container::Runtime { name: "none".to_owned(), options: None };
        let spec = prost_types::Any { type_url: "none".to_owned(), value: Vec::new() };
        let container = Container {
            id: id.to_owned(),
            image: image.to_owned(),
            runtime: Some(runtime),
            spec: Some(spec),
            ..Default::default()
        };
        let request = namespace.request(CreateContainerRequest { container: Some(container) });
        namespace.client().containers().create(request).await.expect("a container record can be made");
    }
    let container = async |id| store.container(id).await;
    let named = container("with").await.expect("containerd answers");
    assert_eq!(named.image.as_deref(), Some("localhost/image:v1"));
    assert_eq!(container("without").await.expect("containerd answers"), ContainerRecord::default());
    let keeps = Digest::of(b"kept");
    store.note_container("with", "test/name", "test/type", b"note".to_vec(), &keeps).await.expect("it can be noted");
    let noted = container("with").await.expect("containerd answers");
    let note = Extension { type_url: "test/type".to_owned(), value: b"note".to_vec() };
    assert_eq!(noted.extensions, [("test/name".to_owned(), note)].into());
    assert_eq!(noted.image.as_deref(), Some("localhost/image:v1"), "nothing else is changed");
    let answer = store.note_container("neither", "test/name", "test/type", Vec::new(), &keeps).await;
    assert!(matches!(&answer, Err(StoreError::NotFound { subject }) if subject == "container neither"), "{answer:?}");
    let answer = container("neither").await;
    assert!(matches!(&answer, Err(StoreError::NotFound { subject }) if subject == "container neither"), "{answer:?}");
    assert!(store.namespaces().await.expect("containerd answers").contains(&namespace.name().to_owned()));
    assert!(store.describe().contains(namespace.name()), "{}", store.describe());
}

/// Where nobody listens, the error says where that is.
async fn nobody_answers(namespace: Namespace) {
    let address = namespace.folder().join("nobody.sock");
    let error = ContainerdStore::connect(Path::new(&address), "default").await.err().expect("nobody is there");
    assert!(matches!(&error, StoreError::Connect { store, .. } if store.contains("nobody.sock")), "{error}");
}

/// A store that was connected before containerd was killed and started again goes on working, locks included.
async fn restart_is_survived(namespace: Namespace) {
    let daemon = std::sync::Arc::new(prewasi_test::Containerd::start(namespace.daemon().series()).await);
    let namespace = Namespace::create(daemon.clone()).await;
    let subject = Subject::containerd(namespace.clone()).await;
    let digest = subject.put(&unique("kept")).await;
    let lock = subject.store.try_lock("kept").await.expect("containerd answers").expect("the lock is free");
    daemon.restart(Signal::KILL).await;
    assert!(subject.store.info(&digest).await.expect("containerd answers again").is_some());
    lock.release().await;
    let lease = subject.store.lease(TTL).await.expect("containerd answers again");
    subject.store.release(lease).await.expect("containerd answers again");
    let lock = subject.store.try_lock("kept").await.expect("containerd answers").expect("the lock is free");
    lock.release().await;
    subject.finish().await;
}

/// A write that containerd is killed under begins again when it is back.
async fn restart_while_writing_is_survived(namespace: Namespace) {
    let daemon = std::sync::Arc::new(prewasi_test::Containerd::start(namespace.daemon().series()).await);
    let namespace = Namespace::create(daemon.clone()).await;
    let subject = Subject::containerd(namespace).await;
    let mut bytes = unique("interrupted");
    bytes.resize(24 << 20, 7);
    let digest = Digest::of(&bytes);
    let (answer, ()) = tokio::join!(subject.write(&digest, &bytes, &[]), daemon.restart(Signal::KILL));
    answer.expect("it is written");
    assert!(subject.opened(&digest).await == bytes, "the blob is another");
    subject.assert_no_ingest().await;
    subject.finish().await;
}
