//! The contract of the content store: one suite of clauses. The layout folder and containerd keep it, with and without access to
//! containerd's files. `contract/containerd.rs` tests the actions and failures that only containerd has.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;
use prewasi_cache::{ContainerdStore, ContentStore, Digest, LayoutStore, Lease, NewBlob, StoreError};
use prewasi_test::Namespace;
use prewasi_test::trial::Case;
use tempfile::TempDir;

mod blobs;
mod containerd;
mod images;
mod labels;
mod locks;
mod repair;

/// Longer than any test, shorter than a day's work.
pub(crate) const TTL: Duration = Duration::from_secs(600);

/// A store under test.
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn ContentStore>,
    lease: Lease,
    backend: Backend,
}

enum Backend {
    Layout(TempDir),
    Containerd(Namespace),
}

/// Lists every clause, once for each backend. The names are those of the functions.
macro_rules! clauses {
    ($($module:ident: $($clause:ident)+;)+) => {
        /// The clauses on a layout folder, which need no daemon.
        pub(crate) fn layout_trials() -> Vec<Trial> {
            vec![$($(Trial::test(concat!("layout::contract::", stringify!($module), "::", stringify!($clause)), || {
                run(async { $module::$clause(Subject::layout().await).await });
                Ok(())
            })),+),+]
        }

        /// The clauses on a containerd whose files are within reach.
        fn containerd_cases() -> Vec<Case> {
            vec![$($(Case {
                name: concat!("integration::contract::", stringify!($module), "::", stringify!($clause)),
                body: |namespace| Box::pin(async move {
                    let subject = Subject::containerd(namespace).await;
                    $module::$clause(subject).await;
                }),
                needs: &[],
            }),+),+]
        }
    };
}

clauses! {
    blobs: big_blob_comes_back empty_blob_comes_back existing_blob_is_success wrong_digest_leaves_nothing
        short_file_leaves_nothing opened_blob_is_read_only reads_have_a_limit damaged_blob_is_not_read
        missing_blob_is_not_found deleted_blob_can_be_written_again writers_of_one_blob_agree;
    labels: one_label_at_a_time empty_value_removes_the_label long_label_is_refused simultaneous_labels_all_stay
        label_without_blob_is_not_found blobs_are_listed_with_labels;
    images: images_are_listed image_labels_are_set_one_by_one;
    locks: lock_has_one_holder dropped_lock_is_free killed_holder_frees_the_lock
        one_of_many_gets_the_lock lock_that_nobody_waits_for_is_free;
}

/// All that runs on a containerd.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = containerd_cases();
    cases.extend(containerd::cases());
    cases.extend(repair::cases());
    cases
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built").block_on(test);
}

impl Subject {
    async fn layout() -> Self {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let store = Arc::new(LayoutStore::create(folder.path()).expect("a layout can be made"));
        Self::new(store, Backend::Layout(folder)).await
    }

    pub(crate) async fn containerd(namespace: Namespace) -> Self {
        let store = Arc::new(connect(&namespace).await);
        Self::new(store, Backend::Containerd(namespace)).await
    }

    pub(crate) async fn new_on(namespace: &Namespace, store: ContainerdStore) -> Self {
        Self::new(Arc::new(store), Backend::Containerd(namespace.clone())).await
    }

    async fn new(store: Arc<dyn ContentStore>, backend: Backend) -> Self {
        let lease = store.lease(TTL).await.expect("a lease can be taken");
        Self { store, lease, backend }
    }

    /// Stores `bytes` without labels.
    pub(crate) async fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.write(&digest, bytes, &[]).await.expect("a blob can be written");
        digest
    }

    pub(crate) async fn write(&self, digest: &Digest, bytes: &[u8], labels: &[(&str, &str)]) -> Result<(), StoreError> {
        self.write_file(digest, &file(bytes), bytes.len() as u64, labels).await
    }

    pub(crate) async fn write_file(
        &self,
        digest: &Digest,
        file: &File,
        size: u64,
        labels: &[(&str, &str)],
    ) -> Result<(), StoreError> {
        let labels = owned(labels);
        self.store.write(&self.lease, NewBlob { digest, size, file, labels: &labels }).await
    }

    pub(crate) async fn labels(&self, digest: &Digest) -> BTreeMap<String, String> {
        let info = self.store.info(digest).await.expect("the store answers");
        info.unwrap_or_else(|| panic!("blob {digest} is not there")).labels
    }

    /// Returns the bytes of a blob by way of the opened file.
    pub(crate) async fn opened(&self, digest: &Digest) -> Vec<u8> {
        let mut blob = self.store.open(digest).await.expect("the blob opens");
        let mut bytes = Vec::new();
        blob.file.read_to_end(&mut bytes).expect("the file reads");
        assert_eq!(bytes.len() as u64, blob.size);
        bytes
    }

    /// Changes the first byte of a blob's file in place.
    pub(crate) fn damage(&self, digest: &Digest) {
        let path = match &self.backend {
            Backend::Layout(folder) => folder.path().join("blobs/sha256").join(digest.hex()),
            Backend::Containerd(namespace) => namespace.daemon().blob_path(digest.as_str()),
        };
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("the file is ours");
        let file = File::options().read(true).write(true).open(&path).expect("the file is writable");
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).expect("the file is not empty");
        file.write_all_at(&[byte[0] ^ 1], 0).expect("the file is writable");
    }

    /// Fails if anything of a write is still on its way.
    pub(crate) async fn assert_no_ingest(&self) {
        match &self.backend {
            Backend::Layout(folder) => {
                let left = fs::read_dir(folder.path().join(".prewasi/tmp")).map_or(0, Iterator::count);
                assert_eq!(left, 0, "temporary files are left");
            }
            Backend::Containerd(namespace) => assert_eq!(containerd::ingests(namespace).await, [""; 0]),
        }
    }

    /// Starts a process that holds the lock `name` of this store until it is killed, and waits until it has it.
    pub(crate) fn hold_elsewhere(&self, name: &str) -> Child {
        let (kind, place, namespace) = match &self.backend {
            Backend::Layout(folder) => ("layout", folder.path().to_owned(), ""),
            Backend::Containerd(namespace) => ("containerd", namespace.daemon().address(), namespace.name()),
        };
        let mut child = Command::new("/proc/self/exe")
            .env(HOLD, [kind, &place.to_string_lossy(), namespace, name].join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let mut word = [0; 4];
        child.stdout.take().expect("stdout is piped").read_exact(&mut word).expect("the holder says so");
        assert_eq!(&word, b"held");
        child
    }

    /// Gives the lease back; a test that ends without it is a failed one.
    pub(crate) async fn finish(self) {
        self.store.release(self.lease).await.expect("a lease can be released");
    }

    /// Returns the namespace of a subject that is a containerd.
    pub(crate) fn namespace(&self) -> Option<&Namespace> {
        match &self.backend {
            Backend::Layout(_) => None,
            Backend::Containerd(namespace) => Some(namespace),
        }
    }

    fn index_path(&self) -> Option<PathBuf> {
        match &self.backend {
            Backend::Layout(folder) => Some(folder.path().join("index.json")),
            Backend::Containerd(_) => None,
        }
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }
}

pub(crate) async fn connect(namespace: &Namespace) -> ContainerdStore {
    ContainerdStore::connect(&namespace.daemon().address(), namespace.name()).await.expect("containerd is reachable")
}

pub(crate) fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("there is room for temporary files");
    file.write_all(bytes).expect("there is room for temporary files");
    file
}

pub(crate) fn owned(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Bytes that no other test has, so that tests on one containerd do not share blobs.
pub(crate) fn unique(text: &str) -> Vec<u8> {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("{text} {} {count}", std::process::id()).into_bytes()
}

/// Variable that tells a copy of this program to hold a lock: backend, folder or socket, namespace, name; a line each.
const HOLD: &str = "PREWASI_TEST_HOLD_LOCK";

/// Holds a lock until killed, if this process was started by [`Subject::hold_elsewhere`]; says whether it was.
pub(crate) fn held_lock_as_asked() -> bool {
    let Ok(order) = std::env::var(HOLD) else { return false };
    run(async {
        let [kind, place, namespace, name] = order.split('\n').collect::<Vec<_>>()[..] else { panic!("{order:?}") };
        let place = std::path::Path::new(place);
        let store: Box<dyn ContentStore> = match kind {
            "layout" => Box::new(LayoutStore::open(place).expect("the layout is there")),
            _ => Box::new(ContainerdStore::connect(place, namespace).await.expect("containerd is reachable")),
        };
        let _lock = store.try_lock(name).await.expect("the store answers").expect("the lock is free");
        let mut stdout = std::io::stdout();
        stdout.write_all(b"held").and_then(|()| stdout.flush()).expect("the parent listens");
        // Until the parent kills this process, or is gone itself.
        let _ = std::io::stdin().read(&mut [0]);
    });
    true
}
