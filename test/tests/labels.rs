//! The labels beside the wasm, their life and their end.

use std::collections::{BTreeMap, BTreeSet};

use prewasi_engines::{Engine as _, Wasmtime, version_label};
use prewasi_test::guests::{DEMO, DEMO_COMPONENT};
use prewasi_test::image::{self, Imported, Program, files};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(first_run_leaves_the_labels_of_the_contract),
        case!(precompile_leaves_the_labels_of_the_contract),
        case!(shim_binary_precompiles_like_prewasi),
        case!(second_run_compiles_nothing),
        case!(second_run_writes_nothing),
        case!(run_after_precompile_compiles_nothing),
        case!(file_in_an_ordinary_image_is_compiled_once),
        case!(unrelated_removal_keeps_the_artifact),
        case!(removing_the_image_frees_the_artifact),
        case!(shared_layer_shares_the_artifact),
        case!(pulled_labels_are_left_alone),
    ]
}

/// The key by which an engine finds its artifacts on this machine.
pub(crate) struct Key {
    engine: &'static str,
    version: String,
}

impl Key {
    /// Returns that of wasmtime.
    pub(crate) fn here() -> Self {
        Self { engine: "wasmtime", version: version_label(&Wasmtime::new()) }
    }

    /// Returns that of the namespace's engine, which has compiled the source.
    pub(crate) fn of(namespace: &Namespace, source: &str) -> Self {
        match namespace.engine() {
            "wasmtime" => Self::here(),
            // The journal has the versions of the others.
            engine => {
                let compiles = namespace.daemon().journal().compiles(source);
                let compile = compiles.first().unwrap_or_else(|| panic!("nobody has compiled {source}"));
                assert_eq!(compile.engine, engine);
                Self { engine, version: compile.version.clone() }
            }
        }
    }

    pub(crate) fn label(&self) -> String {
        format!("runwasi.io/precompiled/{}/{}", self.engine, self.version)
    }

    pub(crate) fn gc_label(&self) -> String {
        format!("containerd.io/gc.ref.content.precompiled.{}.{}", self.engine, self.version)
    }

    /// Asserts that a fingerprint is the one that the version ends with.
    fn assert_fingerprint(&self, fingerprint: &str) {
        let beginning = self.version.rsplit('-').next().expect("there is a last part");
        assert!(fingerprint.len() == 64 && fingerprint.starts_with(beginning), "{}: {fingerprint}", self.version);
        if self.engine == "wasmtime" {
            assert_eq!(fingerprint, Wasmtime::new().fingerprint().hex());
        }
    }
}

/// Imports the demo program, marked, as a wasm image of one layer.
fn demo(namespace: &Namespace, name: &str) -> (Program, Imported) {
    let program = Program::guest(namespace, DEMO);
    let image = image::import(namespace, name, |image| image.layer(program.layer("demo.wasm")));
    (program, image)
}

/// Returns the labels that belong to prewasi, or keep its content.
fn ours(labels: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let all = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    all.filter(|(key, _)| key.contains("precompiled")).collect()
}

/// Returns the digest of the artifact that a source's label names.
pub(crate) async fn artifact(namespace: &Namespace, source: &str) -> String {
    let labels = namespace.labels(source).await;
    let key = Key::of(namespace, source).label();
    labels.get(&key).unwrap_or_else(|| panic!("no label {key} on {source}: {labels:?}")).clone()
}

/// Asserts that source, artifact and image record bear the labels of the contract, and no others of prewasi.
pub(crate) async fn assert_contract(namespace: &Namespace, source: &str, image: &str) {
    let key = Key::of(namespace, source);
    let artifact = artifact(namespace, source).await;
    let on_source = namespace.labels(source).await;
    let (label, gc_label) = (key.label(), key.gc_label());
    let expected: BTreeMap<&str, &str> = [(&*label, &*artifact), (&*gc_label, &*artifact)].into();
    assert_eq!(ours(&on_source), expected, "labels of the source");

    let on_artifact = namespace.labels(&artifact).await;
    assert_eq!(on_artifact.get("runwasi.io/precompiled").map(String::as_str), Some(source));
    key.assert_fingerprint(on_artifact.get(&label).unwrap_or_else(|| panic!("no label {label}: {on_artifact:?}")));
    let others: BTreeSet<&str> = ours(&on_artifact).into_keys().filter(|key| *key != label).collect();
    assert!(others.iter().all(|key| !key.starts_with("runwasi.io/precompiled/")), "{others:?}");

    let record = namespace.image(image).await.expect("the image is there");
    assert_eq!(record.labels.get(&label), Some(&artifact), "labels of the image record: {:?}", record.labels);
}

/// The first run leaves exactly the labels of the contract on layer, artifact and image record, and one compile.
async fn first_run_leaves_the_labels_of_the_contract(namespace: Namespace) {
    let (program, image) = demo(&namespace, "first");
    assert_eq!(namespace.container(&image.name).args(&["exit", "0"]).run().await.code, 0);
    assert_contract(&namespace, &program.digest, &image.name).await;
    let compiles = namespace.daemon().journal().compiles(&program.digest);
    assert_eq!(compiles.iter().map(|compile| &*compile.outcome).collect::<Vec<_>>(), ["ok"]);
    let key = Key::of(&namespace, &program.digest);
    assert_eq!((&*compiles[0].engine, &*compiles[0].version), (namespace.engine(), &*key.version));
}

/// `prewasi precompile` leaves the labels that a first run would, for modules and components, in an index or not.
async fn precompile_leaves_the_labels_of_the_contract(namespace: Namespace) {
    let module = Program::guest(&namespace, DEMO);
    let component = Program::guest(&namespace, DEMO_COMPONENT);
    let indexed =
        image::import(&namespace, "module", |image| image.platform_index(true).layer(module.layer("demo.wasm")));
    let plain = image::import(&namespace, "component", |image| image.layer(component.layer("demo.wasm")));
    namespace.prewasi("precompile", &[&indexed.name, &plain.name]).success();
    assert_contract(&namespace, &module.digest, &indexed.name).await;
    assert_contract(&namespace, &component.digest, &plain.name).await;
}

/// The shim's own `precompile` leaves the same labels, under the same key, as that of `prewasi`.
async fn shim_binary_precompiles_like_prewasi(namespace: Namespace) {
    let (program, image) = demo(&namespace, "shim");
    let shim = format!("containerd-shim-{}-v1", namespace.engine());
    namespace.program(&shim, "precompile", &[&image.name]).success();
    assert_contract(&namespace, &program.digest, &image.name).await;
    namespace.prewasi("precompile", &[&image.name]).success();
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
}

/// The second run of an image compiles nothing.
async fn second_run_compiles_nothing(namespace: Namespace) {
    let (program, image) = demo(&namespace, "twice");
    for _ in 0..2 {
        assert_eq!(namespace.container(&image.name).args(&["exit", "0"]).run().await.code, 0);
        assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
    }
}

/// The second run changes no label, not even to the value that it has: neither record nor blobs are written to.
async fn second_run_writes_nothing(namespace: Namespace) {
    let (program, image) = demo(&namespace, "demo");
    let changed = async || {
        let record = namespace.image(&image.name).await.expect("the image is there").updated_at;
        let artifact = artifact(&namespace, &program.digest).await;
        let blob = async |digest: &str| namespace.blob(digest).await.expect("the blob is there").updated_at;
        (record, blob(&program.digest).await, blob(&artifact).await)
    };
    namespace.container(&image.name).args(&["echo"]).run().await;
    let first = changed().await;
    namespace.container(&image.name).args(&["echo"]).run().await;
    assert_eq!(changed().await, first);
}

/// The first run after `precompile` compiles nothing.
async fn run_after_precompile_compiles_nothing(namespace: Namespace) {
    let (program, image) = demo(&namespace, "warm");
    namespace.prewasi("precompile", &["--all"]).success();
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
    assert_eq!(namespace.container(&image.name).args(&["exit", "0"]).run().await.code, 0);
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
}

/// A `.wasm` file in an ordinary image is compiled once: the artifact is anchored on the image's manifest.
async fn file_in_an_ordinary_image_is_compiled_once(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "ordinary", |image| {
        image.os("linux").entrypoint(["/demo.wasm"]).layer(files(&[("/demo.wasm", &program.bytes, 0o644)]))
    });
    for _ in 0..2 {
        assert_eq!(namespace.container(&image.name).args(&["exit", "0"]).run().await.code, 0);
        assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
    }
    // One image may hold several files, so the keys on its manifest end with the beginning of the file's digest.
    let on_manifest = namespace.labels(&image.digest).await;
    let file = &program.digest["sha256:".len()..][..12];
    let key = Key::of(&namespace, &program.digest);
    let artifact = on_manifest.get(&format!("{}/{file}", key.label())).expect("the manifest is labelled").clone();
    assert_eq!(on_manifest.get(&format!("{}.{file}", key.gc_label())), Some(&artifact));
    let labels = namespace.labels(&artifact).await;
    assert_eq!(labels.get("runwasi.io/precompiled"), Some(&program.digest));
    namespace.collect_garbage().await;
    assert!(namespace.blob(&artifact).await.is_some());
    namespace.remove_image(&image.name).await;
    assert!(namespace.blob(&artifact).await.is_none());
}

/// The artifact survives a collection of garbage that the removal of another image set off.
async fn unrelated_removal_keeps_the_artifact(namespace: Namespace) {
    let (program, image) = demo(&namespace, "kept");
    namespace.prewasi("precompile", &[&image.name]).success();
    let artifact = artifact(&namespace, &program.digest).await;
    namespace.collect_garbage().await;
    assert!(namespace.blob(&artifact).await.is_some());
    assert_eq!(namespace.container(&image.name).args(&["exit", "0"]).run().await.code, 0);
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
}

/// The artifact goes with its image.
async fn removing_the_image_frees_the_artifact(namespace: Namespace) {
    let (program, image) = demo(&namespace, "freed");
    assert_eq!(namespace.container(&image.name).args(&["exit", "0"]).run().await.code, 0);
    let artifact = artifact(&namespace, &program.digest).await;
    assert!(namespace.blob(&artifact).await.is_some());
    namespace.remove_image(&image.name).await;
    assert!(namespace.blob(&artifact).await.is_none());
    assert!(namespace.blob(&program.digest).await.is_none());
}

/// Two images that share a layer share its artifact, which goes with the last of them.
async fn shared_layer_shares_the_artifact(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let import = |name: &str| {
        image::import(&namespace, name, |image| image.label("name", name).layer(program.layer("demo.wasm"))).name
    };
    let (one, other) = (import("one"), import("other"));
    namespace.prewasi("precompile", &[&one, &other]).success();
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
    let artifact = artifact(&namespace, &program.digest).await;
    namespace.remove_image(&one).await;
    assert!(namespace.blob(&artifact).await.is_some());
    namespace.remove_image(&other).await;
    assert!(namespace.blob(&artifact).await.is_none());
}

/// Labels of others on the layer, ones that look like ours among them, are neither changed nor followed.
async fn pulled_labels_are_left_alone(namespace: Namespace) {
    let (program, image) = demo(&namespace, "labelled");
    let foreign = [
        ("containerd.io/distribution.source.localhost", "demo"),
        ("runwasi.io/precompiled/wasmtime/1.0.0-000000000000", "sha256:0000"),
        ("runwasi.io/precompiled/wasmer/7.0.0-000000000000", "not a digest"),
    ];
    for (key, value) in foreign {
        namespace.set_label(&program.digest, key, value).await;
    }
    assert_eq!(namespace.container(&image.name).args(&["exit", "0"]).run().await.code, 0);
    let labels = namespace.labels(&program.digest).await;
    for (key, value) in foreign {
        assert_eq!(labels.get(key).map(String::as_str), Some(value));
    }
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
}
