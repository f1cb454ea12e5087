//! Artifacts: mapped when they fit, refused with the reason when they do not.

use std::collections::BTreeMap;

use prewasi_engines::{Engine as _, Wasmer, version_label};

use crate::common::{Ended, artifact, run, store, trials};
use crate::compiled::{MODULE, compile, load, load_here, replaced};
use crate::guest::LOAD_FAILED;

trials![
    other_version_is_refused,
    other_options_are_refused,
    other_files_are_refused,
    module_is_mapped,
    large_artifact_starts_at_once,
];

/// Code of another version is refused, and the reason names it.
fn other_version_is_refused() {
    let artifact = compile(MODULE).unwrap();
    let label = version_label(&Wasmer::new());
    let other = label.replacen("7.", "6.", 1);
    let reason = load(&replaced(&artifact, label.as_bytes(), other.as_bytes()), artifact.len() as u64);
    assert_eq!(reason, "it was compiled by wasmer 6.3.0, and this is 7.3.0");
    assert_eq!(load(&artifact, artifact.len() as u64), "it was loaded");
}

/// Code of another fingerprint (other options, another CPU) is refused, and the reason names both.
fn other_options_are_refused() {
    let artifact = compile(MODULE).unwrap();
    let own = Wasmer::new().fingerprint().hex()[..12].to_owned();
    let other = "0123456789ab";
    let reason = load(&replaced(&artifact, own.as_bytes(), other.as_bytes()), artifact.len() as u64);
    assert!(reason.contains(&own) && reason.contains(other), "{reason}");
}

/// Neither wasm nor an executable passes for an artifact.
fn other_files_are_refused() {
    let wasm = wat::parse_str(MODULE).unwrap();
    assert_ne!(load(&wasm, wasm.len() as u64), "it was loaded");
    let executable = std::fs::read("/proc/self/exe").unwrap();
    assert_eq!(load(&executable, executable.len() as u64), "it is no artifact of wasmer, or not a whole one");
    let ended = run(&store(b"text"), &[]);
    assert_eq!(ended.code, Some(LOAD_FAILED), "{ended:?}");
}

/// The code of a running module is the file's own pages: none is copied, and two processes share them.
fn module_is_mapped() {
    // The data is changed while it runs, which must not touch the file.
    let module = artifact(
        r#"(module (memory 1) (data (i32.const 0) "data")
            (func (export "_start") (i32.store (i32.const 0) (i32.const 1))))"#,
    );
    let before = std::fs::read(module.path()).unwrap();
    let here = load_here(&module);
    assert_mapped(&run(&module, &["--forked", "--report"]));
    drop(here);
    assert!(std::fs::read(module.path()).unwrap() == before);
}

fn assert_mapped(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mappings: Vec<BTreeMap<&str, &str>> = (ended.stdout.lines())
        .filter_map(|line| line.strip_prefix("mapping "))
        .map(|line| line.split(' ').filter_map(|field| field.split_once('=')).collect())
        .collect();
    let number = |mapping: &BTreeMap<&str, &str>, name: &str| mapping[name].parse::<usize>().unwrap();
    // What is writable are the addresses of the engine's own functions, which each process fills in.
    let code: Vec<_> = mappings.iter().filter(|mapping| mapping["permissions"].starts_with("r-x")).collect();
    assert!(!code.is_empty(), "{}", ended.stdout);
    for mapping in &code {
        assert_eq!(number(mapping, "Anonymous"), 0, "{}", ended.stdout);
    }
    let sum = |name| code.iter().map(|mapping| number(mapping, name)).sum::<usize>();
    assert!(sum("Pss") < sum("Rss"), "nothing is shared with this process: {}", ended.stdout);
}

/// A large artifact is not read when it is loaded: of its pages, only a small part is ever resident.
fn large_artifact_starts_at_once() {
    let body = "(local.set 0 (i32.mul (local.get 0) (i32.add (i32.const 12345) (local.get 0))))".repeat(60);
    let functions: String =
        (0..4000).map(|n| format!("(func (export \"f{n}\") (param i32) (result i32) {body} (local.get 0))")).collect();
    let start = std::time::Instant::now();
    let large = artifact(&format!("(module {functions} (func (export \"_start\")))"));
    let compiled = start.elapsed();
    let ended = run(&large, &["--report"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let sum = |name: &str| -> usize {
        let fields = ended.stdout.split_whitespace().filter_map(|field| field.strip_prefix(name));
        fields.map(|value| value.parse::<usize>().unwrap()).sum()
    };
    let (size, resident) = (sum("Size="), sum("Rss="));
    println!("{size} KiB compiled in {compiled:?}; started in {} µs, {resident} KiB resident", sum("start_to_end_us="));
    assert!(size > 2000, "{size} KiB are mapped");
    assert!(resident < size / 2, "{resident} of {size} KiB are resident");
}
