//! Native code for machines other than this one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use libtest_mimic::Trial;
use prewasi_cache::{ContentStore as _, LayoutStore};
use prewasi_test::guests::{self, DEMO};
use prewasi_test::image::{self, Program};
use prewasi_test::local::Local;
use prewasi_test::trial::{Case, local_trials};
use prewasi_test::{Namespace, case};
use serde_json::Value;

use crate::labels::Key;

/// A target whose architecture is not this machine's.
const OTHER: &str = if cfg!(target_arch = "x86_64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(containerd_keeps_code_for_its_own_machine_only)]
}

pub(crate) fn trials() -> Vec<Trial> {
    local_trials![
        code_for_several_machines_lies_side_by_side,
        cpu_levels_are_different_code,
        code_for_another_machine_is_compiled_once,
        baked_code_for_a_level_of_this_cpu_runs_here,
        unknown_machines_are_wrong_usage,
    ]
}

/// Makes a layout of the demo program; returns its path, as `--store` wants it too, and the layer's digest.
fn demo(local: &Local) -> (String, String, String) {
    let program = Program::new(std::fs::read(guests::path(DEMO)).expect("the guest is there"));
    let path = local.layout("demo", |image| image.layer(program.layer("demo.wasm")));
    let path = path.to_str().expect("a plain path").to_owned();
    (path.clone(), format!("oci:{path}"), program.digest)
}

/// Precompiles all of a layout; returns version and artifact.
fn precompile(local: &Local, store: &str, options: &[&str]) -> (String, String) {
    let output = local.prewasi(&[&["precompile", "--all", "--json", "--store", store], options].concat()).success();
    let json: Value = serde_json::from_str(&output.stdout).expect("one JSON document");
    let text = |field: &str| json["images"][0][field].as_str().unwrap_or_else(|| panic!("{field}: {json}")).to_owned();
    (text("version"), text("artifact"))
}

fn labels(layout: &str, digest: &str) -> BTreeMap<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store = LayoutStore::open(Path::new(layout)).expect("the layout is there");
    let info = runtime.block_on(store.info(&digest.parse().expect("a digest"))).expect("the layout can be read");
    info.expect("the blob is there").labels
}

/// Artifacts for this machine, another architecture and a lower CPU level bear labels of their own on the same layer. They name their
/// machine, and a run here still uses this machine's artifact.
fn code_for_several_machines_lies_side_by_side() {
    let local = Local::new();
    let (path, store, layer) = demo(&local);
    let host = precompile(&local, &store, &[]);
    let other = precompile(&local, &store, &["--target", OTHER]);
    let baseline = precompile(&local, &store, &["--cpu", "baseline"]);
    let on_layer = labels(&path, &layer);
    for (version, artifact) in [&host, &other, &baseline] {
        assert_eq!(on_layer.get(&format!("runwasi.io/precompiled/wasmtime/{version}")), Some(artifact));
    }
    assert_eq!(on_layer.keys().filter(|key| key.starts_with("runwasi.io/precompiled/")).count(), 3, "{on_layer:?}");
    assert_eq!(BTreeSet::from([&host.1, &other.1, &baseline.1]).len(), 3);
    assert_eq!(labels(&path, &other.1).get("prewasi.io/target").map(String::as_str), Some(OTHER));

    assert_eq!(format!("runwasi.io/precompiled/wasmtime/{}", host.0), Key::here().label());
    let output = local.prewasi(&["run", &store, "echo", "still", "here"]).success();
    assert_eq!(output.stdout, "still here\n");
    assert_eq!(local.journal().compiles(&layer).len(), 3, "the run compiled nothing");
}

/// Two levels of the x86-64 architecture have versions and artifacts of their own.
fn cpu_levels_are_different_code() {
    let local = Local::new();
    let (_, store, _) = demo(&local);
    let target = ["--target", "x86_64-unknown-linux-gnu", "--cpu"];
    let baseline = precompile(&local, &store, &[&target[..], &["baseline"]].concat());
    let third = precompile(&local, &store, &[&target[..], &["x86-64-v3"]].concat());
    assert_ne!(baseline.0, third.0);
    assert_ne!(baseline.1, third.1);
}

/// A second request for another machine finds the stored artifact.
fn code_for_another_machine_is_compiled_once() {
    let local = Local::new();
    let (_, store, layer) = demo(&local);
    let first = precompile(&local, &store, &["--target", OTHER]);
    assert_eq!(precompile(&local, &store, &["--target", OTHER, "--cpu", "baseline"]), first);
    assert_eq!(local.journal().compiles(&layer).len(), 1);
}

/// Code that CI has put into a layout for a level of this CPU is run here without a compile by who trusts the layout.
fn baked_code_for_a_level_of_this_cpu_runs_here() {
    let local = Local::new();
    let (_, store, layer) = demo(&local);
    precompile(&local, &store, &["--cpu", "baseline"]);
    let elsewhere = local.path("elsewhere");
    let args = ["run", "--trust-layout", "--cpu", "baseline", &store, "echo", "baked"];
    let output = prewasi_test::local::run(local.command().env("PREWASI_RUNTIME_DIR", &elsewhere).args(args)).success();
    assert_eq!(output.stdout, "baked\n");
    assert_eq!(prewasi_test::journal::Journal::new(&elsewhere).compiles(&layer), []);
}

/// An unknown target or CPU is wrong usage: exit code 64, and a hint that lists the known ones.
fn unknown_machines_are_wrong_usage() {
    let local = Local::new();
    let (_, store, layer) = demo(&local);
    let precompile = |options: &[&str]| {
        local.prewasi(&[&["precompile", "--all", "--store", &store], options].concat()).fails_with(64)
    };
    precompile(&["--target", "pdp11-unknown-linux"]).says(&["pdp11-unknown-linux", "hint:", OTHER]);
    precompile(&["--cpu", "pentium"]).says(&["pentium", "hint:", "baseline", "native"]);
    precompile(&["--target", OTHER, "--cpu", "native"]).says(&["native", OTHER, "hint:", "baseline"]);
    local.prewasi(&["run", "--cpu", "pentium", &store]).fails_with(64).says(&["pentium", "hint:"]);
    assert_eq!(local.journal().compiles(&layer), []);
}

/// In containerd's store only code for the node itself is kept; for anything else the command points to a layout.
async fn containerd_keeps_code_for_its_own_machine_only(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "demo", |image| image.layer(program.layer("demo.wasm")));
    for options in [["--target", OTHER], ["--cpu", "baseline"]] {
        let output = namespace.prewasi("precompile", &[&options[..], &[&image.name]].concat());
        output.fails_with(64).says(&["another machine", "hint: --store oci:PATH"]);
    }
    assert_eq!(namespace.daemon().journal().compiles(&program.digest), []);
    namespace.prewasi("precompile", &["--cpu", "native", &image.name]).success();
    assert!(namespace.labels(&program.digest).await.contains_key(&Key::here().label()));
}
