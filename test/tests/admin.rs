//! The administrator's commands: their lists, checks, repairs and removals, and the data that they leave alone.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::time::Duration;

use prewasi_cache::{ArtifactCache, ArtifactKey, ContainerdStore, Digest};
use prewasi_engines::{Engine as _, Wasmtime, version_label};
use prewasi_test::guests::{DEMO, UNKNOWN_IMPORT};
use prewasi_test::image::{self, Program, files};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, artifacts, case};
use serde_json::{Value, json};

mod doctor;
mod prune;
mod verify;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case!(ls_tells_the_states_apart),
        case!(ls_lists_a_thousand_artifacts),
        case!(foreign_labels_are_left_alone),
        case!(inspect_explains_a_start),
        case!(inspect_explains_an_index),
        case!(precompile_names_the_images_that_failed),
        case!(precompile_takes_the_platform_asked_for),
        case!(precompile_knows_its_engines),
        case!(commands_without_containerd_fail_with_a_hint),
        case!(completions_and_manual_are_written),
    ];
    cases.extend(doctor::cases());
    cases.extend(prune::cases());
    cases.extend(verify::cases());
    cases
}

/// Versions as this engine might have had them, older ones first.
const OLD: [&str; 3] = ["46.0.1-aaaaaaaaaaaa", "47.0.2-bbbbbbbbbbbb", "47.0.3-cccccccccccc"];

/// An image with the demo program, precompiled by this build.
struct Subject {
    namespace: Namespace,
    store: Arc<ContainerdStore>,
    image: String,
    layer: Digest,
    /// Labels of the current artifact: the leading and the keeping one.
    label: String,
    keep: String,
}

impl Subject {
    async fn new(namespace: &Namespace) -> Self {
        let program = Program::guest(namespace, DEMO);
        let image = image::import(namespace, "demo", |image| image.layer(program.layer("demo.wasm"))).name;
        namespace.prewasi("precompile", &[&image]).success();
        let version = version_label(&Wasmtime::new());
        Self {
            namespace: namespace.clone(),
            store: Arc::new(connect(namespace).await),
            image,
            layer: program.digest.parse().expect("it is a digest"),
            label: format!("runwasi.io/precompiled/wasmtime/{version}"),
            keep: format!("containerd.io/gc.ref.content.precompiled.wasmtime.{version}"),
        }
    }

    /// Returns the digest of the current artifact, as the label names it.
    async fn artifact(&self) -> Digest {
        let labels = self.namespace.labels(self.layer.as_str()).await;
        labels[&self.label].parse().expect("the label names a digest")
    }

    /// Stores an artifact as another version of the engine would have done.
    async fn superseded(&self, version: &str) -> Digest {
        let key = key(&self.layer, version);
        let cache = ArtifactCache::new(self.store.clone(), self.namespace.folder().join("stamps"));
        let code = format!("code of {version} for {}", self.layer);
        let stored = cache.store(&key, &file(code.as_bytes()), code.len() as u64, &BTreeMap::new()).await;
        stored.expect("it is stored").digest
    }

    fn json(&self, verb: &str, args: &[&str]) -> Value {
        parse(&self.namespace.prewasi(verb, &[args, &["--json"]].concat()).success().stdout)
    }

    async fn is_there(&self, digest: &Digest) -> bool {
        self.namespace.blob(digest.as_str()).await.is_some()
    }

    /// Verifies a damaged store: the problem is named, `--repair` mends it, and a start then compiles nothing.
    async fn assert_repairs(&self, problem: &str) {
        let output = self.namespace.prewasi("verify", &["--json"]).fails_with(1);
        assert_eq!(problems(&parse(&output.stdout)), [(problem.to_owned(), false)], "{output}");
        let repaired = self.json("verify", &["--repair"]);
        assert_eq!(problems(&repaired), [(problem.to_owned(), true)]);
        let output = self.namespace.prewasi("verify", &[&self.image]).success();
        assert!(output.stdout.ends_with(" checked, 0 problems, 0 repaired, 0 foreign labels left alone\n"), "{output}");
        self.namespace.collect_garbage().await;
        let compiles = || self.namespace.daemon().journal().compiles(self.layer.as_str()).len();
        self.namespace.prewasi("precompile", &[&self.image]).success();
        let before = compiles();
        let exited = self.namespace.container(&self.image).args(&["exit", "7"]).run().await;
        assert_eq!((exited.code, compiles()), (7, before));
        assert_eq!(self.states(), ["current"]);
    }

    fn states(&self) -> Vec<String> {
        let listed = self.json("ls", &[]);
        let artifacts = listed["artifacts"].as_array().expect("a list");
        let mut states: Vec<_> = artifacts.iter().map(|row| text(&row["state"])).collect();
        states.sort();
        states
    }
}

fn key(source: &Digest, version: &str) -> ArtifactKey {
    let (_, short) = version.rsplit_once('-').expect("a version ends with a fingerprint");
    ArtifactKey {
        source: source.clone(),
        anchor: source.clone(),
        engine: "wasmtime".to_owned(),
        version: version.to_owned(),
        fingerprint: format!("{short}{}", "0".repeat(52)),
    }
}

async fn connect(namespace: &Namespace) -> ContainerdStore {
    ContainerdStore::connect(&namespace.daemon().address(), namespace.name()).await.expect("containerd is reachable")
}

fn file(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().expect("there is room for temporary files");
    file.write_all_at(bytes, 0).expect("there is room for temporary files");
    file
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("not one JSON document: {error}: {text}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn problems(verified: &Value) -> Vec<(String, bool)> {
    let findings = verified["findings"].as_array().expect("a list");
    findings.iter().map(|found| (text(&found["problem"]), found["repaired"] == true)).collect()
}

/// Changes the first byte of a blob's file in place.
fn damage(namespace: &Namespace, digest: &Digest) {
    let path = namespace.daemon().blob_path(digest.as_str());
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("root may change it");
    let file = File::options().read(true).write(true).open(&path).expect("root may change it");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).expect("it is not empty");
    file.write_all_at(&[byte[0] ^ 1], 0).expect("root may change it");
}

/// `ls` tells current, superseded, dangling and foreign apart, with image, engine, version, digest, size and age of each.
async fn ls_tells_the_states_apart(namespace: Namespace) {
    let subject = Subject::new(&namespace).await;
    let old = subject.superseded(OLD[0]).await;
    let gone = Digest::of(b"gone");
    let (layer, dangling) = (subject.layer.as_str(), key(&subject.layer, OLD[1]).anchor_label());
    namespace.set_label(layer, &dangling, gone.as_str()).await;
    let foreign = "runwasi.io/precompiled/wasmtime/17629352187125";
    namespace.set_label(layer, foreign, old.as_str()).await;
    let listed = subject.json("ls", &[]);
    let row = |label: &str| {
        let rows = listed["artifacts"].as_array().expect("a list");
        rows.iter().find(|row| row["label"] == label).unwrap_or_else(|| panic!("{label} is not listed")).clone()
    };
    assert_eq!(listed["artifacts"].as_array().map(Vec::len), Some(4), "{listed:#}");
    let artifact = subject.artifact().await;
    let current = row(&subject.label);
    assert_eq!(current["state"], "current");
    assert_eq!(current["images"], json!([subject.image]));
    assert_eq!(
        (&current["engine"], &current["version"]),
        (&json!("wasmtime"), &json!(version_label(&Wasmtime::new())))
    );
    assert_eq!((&current["artifact"], &current["layer"]), (&json!(artifact), &json!(subject.layer)));
    assert_eq!(current["bytes"], namespace.blob(artifact.as_str()).await.expect("it is there").size);
    assert!(current["created"].is_string(), "{current}");
    let superseded = row(&key(&subject.layer, OLD[0]).anchor_label());
    assert_eq!((&superseded["state"], &superseded["artifact"]), (&json!("superseded"), &json!(old)));
    assert_eq!((&row(&dangling)["state"], &row(&dangling)["artifact"]), (&json!("dangling"), &json!(gone)));
    assert_eq!((&row(foreign)["state"], &row(foreign)["engine"]), (&json!("foreign"), &Value::Null));
    let table = namespace.prewasi("ls", &[]).success().stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 5, "{table}");
    let heading: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(heading, ["IMAGE", "ENGINE", "VERSION", "STATE", "SIZE", "AGE", "ARTIFACT"]);
    let line = lines.iter().find(|line| line.contains("current")).expect("a current one");
    assert!(line.starts_with(&subject.image) && line.ends_with(artifact.as_str()), "{line}");
}

/// A thousand artifacts of a thousand images are listed. (How long that takes is in the benchmarks.)
async fn ls_lists_a_thousand_artifacts(namespace: Namespace) {
    artifacts::fill(&namespace, 1000).await;
    let output = namespace.prewasi("ls", &[]).success();
    assert_eq!(output.stdout.lines().filter(|line| line.contains("current")).count(), 1000);
}

/// `verify` counts labels of others; no command removes or follows them.
async fn foreign_labels_are_left_alone(namespace: Namespace) {
    let subject = Subject::new(&namespace).await;
    let old = subject.superseded(OLD[0]).await;
    let layer = subject.layer.as_str();
    let foreign = [
        ("runwasi.io/precompiled/wasmtime/17629352187125", old.as_str()),
        ("runwasi.io/precompiled/spin/1.0-0123456789ab", old.as_str()),
        ("runwasi.io/precompiled/wasmtime/1.0-0123456789ab", subject.layer.as_str()),
        ("runwasi.io/precompiled/anything", "at all"),
    ];
    for (key, value) in foreign {
        namespace.set_label(layer, key, value).await;
    }
    let verified = namespace.prewasi("verify", &["--repair"]).success();
    assert_eq!(verified.stdout, "2 artifacts checked, 0 problems, 0 repaired, 4 foreign labels left alone\n");
    namespace.prewasi("prune", &["--keep", "0"]).success();
    let labels = namespace.labels(layer).await;
    for (key, value) in foreign {
        assert_eq!(labels.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert!(subject.is_there(&subject.layer).await);
    assert_eq!(subject.states(), ["current", "foreign", "foreign", "foreign", "foreign"]);
    let exited = namespace.container(&subject.image).args(&["exit", "7"]).run().await;
    assert_eq!(exited.code, 7);
}

/// `inspect` tells each decision, and whether a start would compile.
async fn inspect_explains_a_start(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "demo", |image| image.layer(program.layer("demo.wasm")));
    let steps = |expected: &str| {
        let output = namespace.prewasi("inspect", &[&image.name, "--json"]).success();
        let document = parse(&output.stdout);
        let steps = document["steps"].as_array().expect("a list").clone();
        let names: Vec<_> = steps.iter().map(|step| text(&step["step"])).collect();
        assert_eq!(names, ["record", "manifest", "config", "layer", "look-up", "start"]);
        assert_eq!(text(&steps[5]["therefore"]), expected);
        steps
    };
    let before = steps("a start with wasmtime compiles the layer first");
    assert!(text(&before[0]["found"]).contains(&image.digest), "{}", before[0]);
    assert!(text(&before[2]["found"]).ends_with("platform wasip1/wasm"), "{}", before[2]);
    assert!(text(&before[3]["found"]).starts_with(&program.digest), "{}", before[3]);
    assert!(text(&before[4]["found"]).contains("absent"), "{}", before[4]);
    namespace.prewasi("precompile", &[&image.name]).success();
    steps("a start with wasmtime maps this artifact");
    let output = namespace.prewasi("inspect", &[&image.name]).success();
    assert_eq!(output.stdout.lines().count(), 2 * 6, "{output}");
    namespace.prewasi("inspect", &["localhost/nothing:latest"]).fails_with(1).says(&["cannot find image", "hint:"]);
}

/// `inspect` says which manifest of an index is taken; an image that cannot be used ends with the reason and 1.
async fn inspect_explains_an_index(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image =
        image::import(&namespace, "indexed", |image| image.platform_index(true).layer(program.layer("demo.wasm")));
    let output = namespace.prewasi("inspect", &[&image.name]).success();
    assert!(output.stdout.contains("is taken: the first for wasm"), "{output}");
    let broken = image::import(&namespace, "broken", |image| image.os("linux").layer(program.unchecked()));
    let output = namespace.prewasi("inspect", &[&broken.name]).fails_with(1);
    assert!(output.stdout.contains("platform linux/") && output.stdout.contains("it does not say wasm"), "{output}");
    output.says(&["error: ", &broken.name, "is wasm, but the config says linux/"]);
    namespace.delete_blob(&broken.digest).await;
    let output = namespace.prewasi("inspect", &[&broken.name]).fails_with(1);
    assert_eq!(output.stdout.lines().count(), 2, "the record and its type: {output}");
    output.says(&["error: ", "manifest", "is not in the content store", &broken.name]);
}

/// `precompile` goes on after an image that fails, ends with 1, and names at the end those that failed.
async fn precompile_names_the_images_that_failed(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let good = image::import(&namespace, "good", |image| image.layer(program.layer("demo.wasm"))).name;
    let guest = Program::guest(&namespace, UNKNOWN_IMPORT);
    let bad = image::import(&namespace, "bad", |image| image.layer(guest.layer("bad.wasm"))).name;
    let output = namespace.prewasi("precompile", &["--all", "--jobs", "2", "--json"]).fails_with(1);
    let document = parse(&output.stdout);
    let results: BTreeMap<_, _> = document["images"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|outcome| (text(&outcome["image"]), text(&outcome["result"])))
        .collect();
    let expected = [(bad.clone(), "failed".to_owned()), (good.clone(), "compiled".to_owned())];
    assert_eq!(results, expected.into());
    assert!(output.stderr.ends_with(&format!("failed: 1 of 2 images: {bad}\n")), "{output}");
    let output = namespace.prewasi("precompile", &[&good, "localhost/none:latest"]).fails_with(1);
    assert!(output.stdout.contains(&format!("{good}: already compiled")), "{output}");
    assert!(output.stderr.ends_with("failed: 1 of 2 images: localhost/none:latest\n"), "{output}");
    namespace.prewasi("precompile", &[&good]).success();
}

/// `--platform` takes the image's content for that platform, and refuses an image without any.
async fn precompile_takes_the_platform_asked_for(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image =
        image::import(&namespace, "indexed", |image| image.platform_index(true).layer(program.layer("demo.wasm"))).name;
    let plain = image::import(&namespace, "plain", |image| {
        image.os("linux").entrypoint(["/app.wasm"]).layer(files(&[("/app.wasm", &program.bytes, 0o755)]))
    })
    .name;
    for name in [&image, &plain] {
        let output = namespace.prewasi("precompile", &[name, "--platform", "plan9/mips"]).fails_with(1);
        output.says(&["nothing for platform plan9/mips", name]);
    }
    let output = namespace.prewasi("precompile", &[&image, "--platform", "wasip1/wasm"]).success();
    assert!(output.stdout.contains("compiled for wasmtime"), "{output}");
    namespace.prewasi("precompile", &[&image, "--platform", "wasm"]).fails_with(64).says(&["OS/ARCHITECTURE"]);
}

/// `--engine` takes an engine of the program; another is an error of the command line that names those there are.
async fn precompile_knows_its_engines(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "demo", |image| image.layer(program.layer("demo.wasm"))).name;
    let output = namespace.prewasi("precompile", &[&image, "--engine", "v8"]).fails_with(64);
    assert_eq!(
        output.stderr,
        "error: cannot compile with \"v8\": there is no such engine in this program\nhint: this program has: wasmtime\n"
    );
    let output = namespace.prewasi("precompile", &[&image, "--engine", "wasmtime"]).success();
    assert_eq!(output.stdout.lines().count(), 1, "{output}");
}

/// A command that cannot reach containerd ends with 2, the address and a hint; a wrong command line with 64.
async fn commands_without_containerd_fail_with_a_hint(namespace: Namespace) {
    let program = prewasi_test::home::program("prewasi");
    let run = |args: &[&str]| {
        let mut command = namespace.daemon().command(&program);
        prewasi_test::process::run(command.args(args), Duration::from_secs(60))
    };
    let nobody = namespace.folder().join("nobody.sock");
    let nobody = nobody.to_string_lossy();
    for verb in [&["ls"][..], &["verify"], &["prune"], &["inspect", "image"]] {
        let output = run(&[verb, &["--address", &nobody]].concat()).fails_with(2);
        output.says(&["error: cannot ask containerd", "caused by: ", &nobody, "hint: start containerd"]);
    }
    for wrong in [&["prune", "--keep", "-1"][..], &["prune", "--older-than", "soon"], &["verify", "--mend"], &["list"]]
    {
        run(wrong).fails_with(64);
    }
}

/// `completions` prints a script for the shell, `man` writes a page for each command.
async fn completions_and_manual_are_written(namespace: Namespace) {
    let program = prewasi_test::home::program("prewasi");
    let run = |args: &[&str]| {
        let mut command = namespace.daemon().command(&program);
        prewasi_test::process::run(command.args(args), Duration::from_secs(60))
    };
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef prewasi"), ("fish", "complete -c prewasi")] {
        let script = run(&["completions", shell]).success().stdout;
        assert!(script.contains(word) && script.contains("precompile"), "{shell}: {script}");
    }
    let folder = namespace.folder().join("man1");
    run(&["man", &folder.to_string_lossy()]).success();
    for page in ["prewasi", "prewasi-ls", "prewasi-inspect", "prewasi-verify", "prewasi-prune", "prewasi-doctor"] {
        let text =
            fs::read_to_string(folder.join(format!("{page}.1"))).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    run(&["man", "/proc/none"]).fails_with(1).says(&["cannot write manual pages into /proc/none"]);
}
