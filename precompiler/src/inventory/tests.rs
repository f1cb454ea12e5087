use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prewasi_cache::{ArtifactCache, ArtifactKey, LayoutStore, NewBlob};
use prewasi_engines::{CompileError, Fingerprint, Identity, LoadError, NativeCode, Program, TuningError, Wasm};
use tempfile::TempDir;

use super::*;

/// An engine that has only a name and a version.
struct Fake(Identity);

impl Fake {
    fn new(compiler: &str) -> Self {
        Self::with(Fingerprint::new(vec![("compiler", compiler.to_owned())]), Tuning::default())
    }

    fn with(fingerprint: Fingerprint, tuning: Tuning) -> Self {
        Self(Identity { name: "fake", version: "1.0", fingerprint, tuning })
    }
}

impl Engine for Fake {
    fn identity(&self) -> &Identity {
        &self.0
    }

    fn tuned(&self, tuning: &Tuning) -> Result<Box<dyn Engine>, TuningError> {
        let fields = self.0.fingerprint.lines().lines().filter_map(|line| line.split_once('='));
        let fields = fields.map(|(name, value)| (name, value.to_owned())).chain([("tuning", tuning.to_string())]);
        Ok(Box::new(Self::with(Fingerprint::new(fields), tuning.clone())))
    }

    fn compile(&self, _: &Wasm) -> Result<Vec<u8>, CompileError> {
        unreachable!("nothing is compiled here")
    }

    fn load(&self, _: NativeCode) -> Result<Box<dyn Program>, LoadError> {
        unreachable!("nothing is loaded here")
    }
}

struct Bench {
    folder: TempDir,
    store: Arc<LayoutStore>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp dir");
        let store = Arc::new(LayoutStore::create(&folder.path().join("layout")).expect("a layout can be made"));
        Self { folder, store }
    }

    async fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let lease = self.store.lease(Duration::from_secs(60)).await.expect("lease");
        let (file, labels) = (file(bytes), BTreeMap::new());
        let blob = NewBlob { digest: &digest, size: bytes.len() as u64, file: &file, labels: &labels };
        self.store.write(&lease, blob).await.expect("write");
        digest
    }

    async fn compiled(&self, source: &Digest, anchor: &Digest, engine: &Fake, code: &[u8]) -> AnchorLabel {
        self.compiled_with(source, anchor, engine, code, BTreeMap::new()).await
    }

    async fn compiled_with(
        &self,
        source: &Digest,
        anchor: &Digest,
        engine: &Fake,
        code: &[u8],
        details: BTreeMap<String, String>,
    ) -> AnchorLabel {
        let key = ArtifactKey {
            source: source.clone(),
            anchor: anchor.clone(),
            engine: engine.name().to_owned(),
            version: version_label(engine),
            fingerprint: engine.fingerprint().hex().to_owned(),
        };
        let cache = ArtifactCache::new(self.store.clone(), self.folder.path().join("stamps"));
        cache.store(&key, &file(code), code.len() as u64, &details).await.expect("store");
        AnchorLabel::parse_leading(&key.anchor_label()).expect("it is ours")
    }

    async fn label(&self, blob: &Digest, key: &str, value: &str) {
        self.store.set_label(blob, key, value).await.expect("label");
    }

    async fn states(&self, engine: &Fake) -> Vec<State> {
        let inventory = Inventory::take(&*self.store, &[engine]).await.expect("inventory");
        let mut states: Vec<State> = inventory.entries.iter().map(|entry| entry.state).collect();
        states.sort();
        states
    }
}

fn file(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().expect("temp file");
    std::io::Write::write_all(&mut file, bytes).expect("write");
    file
}

/// An artifact is current for the engine that made it, superseded for another version of that engine, foreign without it.
#[tokio::test]
async fn states_follow_the_engine() {
    let bench = Bench::new();
    let source = bench.put(b"wasm").await;
    let (old, new) = (Fake::new("old"), Fake::new("new"));
    bench.compiled(&source, &source, &old, b"code").await;
    assert_eq!(bench.states(&old).await, [State::Current]);
    assert_eq!(bench.states(&new).await, [State::Superseded]);
    bench.compiled(&source, &source, &new, b"newer").await;
    assert_eq!(bench.states(&new).await, [State::Current, State::Superseded]);
    let inventory = Inventory::take(&*bench.store, &[]).await.expect("inventory");
    assert!(inventory.entries.iter().all(|entry| entry.state == State::Foreign), "{inventory:?}");
}

/// An artifact for another machine is not superseded, so `prune` keeps it.
#[tokio::test]
async fn other_machines_are_told_apart() {
    let bench = Bench::new();
    let source = bench.put(b"wasm").await;
    let details = BTreeMap::from([(labels::TUNING.to_owned(), "target=aarch64-unknown-linux-gnu".to_owned())]);
    bench.compiled_with(&source, &source, &Fake::new("other"), b"code", details).await;
    assert_eq!(bench.states(&Fake::new("this")).await, [State::Elsewhere]);
}

/// Code with tuning is in use as long as a start with the same options looks for it.
#[tokio::test]
async fn tuned_code_is_told_apart() {
    let bench = Bench::new();
    let source = bench.put(b"wasm").await;
    let (engine, tuning) = (Fake::new("this"), Tuning { fuel: true, ..Tuning::default() });
    let tuned = engine.tuned(&tuning).expect("a tuned engine").fingerprint().clone();
    let details = BTreeMap::from([(labels::TUNING.to_owned(), tuning.to_string())]);
    bench.compiled_with(&source, &source, &Fake::with(tuned, Tuning::default()), b"code", details).await;
    assert_eq!(bench.states(&engine).await, [State::Tuned]);
    assert_eq!(bench.states(&Fake::new("newer")).await, [State::Superseded]);
}

/// Labels of other programs are foreign, and so are prewasi's that the artifact does not confirm; prewasi's without a blob are dangling.
#[tokio::test]
async fn labels_are_not_believed() {
    let bench = Bench::new();
    let engine = Fake::new("new");
    let (source, elsewhere) = (bench.put(b"wasm").await, bench.put(b"elsewhere").await);
    let label = bench.compiled(&source, &source, &engine, b"code").await;
    // Named by a blob that is not its source.
    bench.label(&elsewhere, &label.leading(), Digest::of(b"code").as_str()).await;
    assert_eq!(bench.states(&engine).await, [State::Current, State::Foreign]);
    bench.label(&elsewhere, &label.leading(), "").await;
    bench.label(&elsewhere, "runwasi.io/precompiled/fake/17629352187125", Digest::of(b"code").as_str()).await;
    assert_eq!(bench.states(&engine).await, [State::Current, State::Foreign]);
    for value in [Digest::of(b"gone").as_str(), "nonsense"] {
        bench.label(&source, &label.leading(), value).await;
        assert_eq!(bench.states(&engine).await, [State::Dangling, State::Foreign], "{value}");
    }
    bench.label(&source, &label.leading(), Digest::of(b"code").as_str()).await;
    bench.label(&Digest::of(b"code"), &label.plain(), &"0".repeat(64)).await;
    assert_eq!(bench.states(&engine).await, [State::Foreign, State::Foreign]);
}

/// An artifact with only a keeping label is listed as not linked; sources that share an anchor are distinguished.
#[tokio::test]
async fn half_labelled_artifacts_are_found() {
    let bench = Bench::new();
    let engine = Fake::new("new");
    let manifest = bench.put(b"manifest").await;
    let label = bench.compiled(&Digest::of(b"one"), &manifest, &engine, b"code one").await;
    bench.compiled(&Digest::of(b"two"), &manifest, &engine, b"code two").await;
    bench.label(&manifest, &label.leading(), "").await;
    let inventory = Inventory::take(&*bench.store, &[&engine]).await.expect("inventory");
    let half: Vec<_> = inventory.entries.iter().filter(|entry| !entry.is_linked).collect();
    assert_eq!(inventory.entries.len(), 2);
    assert_eq!(half.len(), 1);
    assert_eq!((half[0].state, half[0].is_kept), (State::Current, true));
    assert_eq!(half[0].source, Some(Digest::of(b"one")));
}
