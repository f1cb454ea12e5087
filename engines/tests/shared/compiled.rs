//! The tests for every engine that compiles ahead of time, and the helpers of such an engine's own tests.

use std::collections::BTreeMap;
use std::fs::{self, File};

use prewasi_engines::{CompileError, Engine, LoadError, NativeCode, Program, Tuning, Wasm};

use crate::common::{Ended, artifact, run, store, trials};
use crate::shared::folders::opener;

trials![
    wrong_signature_is_refused,
    invalid_wasm_is_refused,
    compiling_twice_gives_the_same_bytes,
    damaged_headers_are_refused,
    wasm_itself_is_not_run,
    stack_has_a_limit,
    trap_has_a_backtrace,
    uncaught_exception_is_a_trap,
    folders_can_be_read_only,
    large_artifact_starts_at_once,
];

/// Compiles text.
pub(crate) fn compile(text: &str) -> Result<Vec<u8>, CompileError> {
    compile_bytes(wat::parse_str(text).unwrap())
}

/// Compiles bytes that begin like wasm.
pub(crate) fn compile_bytes(bytes: Vec<u8>) -> Result<Vec<u8>, CompileError> {
    crate::engine().compile(&Wasm::new(bytes).unwrap())
}

pub(crate) fn unknown(result: Result<Vec<u8>, CompileError>) -> (String, String) {
    match result {
        Err(CompileError::UnknownImport { module, name }) => (module, name),
        other => panic!("{:?}", other.map(|artifact| artifact.len())),
    }
}

pub(crate) fn invalid(result: Result<Vec<u8>, CompileError>) -> String {
    match result {
        Err(CompileError::Invalid { reason }) => reason,
        other => panic!("{:?}", other.map(|artifact| artifact.len())),
    }
}

pub(crate) const MODULE: &str = r#"(module (memory 1) (data (i32.const 0) "data") (func (export "_start")))"#;

pub(crate) fn load(bytes: &[u8], size: u64) -> String {
    let file = store(bytes);
    // SAFETY: only headers are damaged, and nothing is run.
    let code = unsafe { NativeCode::trust(File::open(file.path()).unwrap(), size) };
    match crate::engine().load(code) {
        Err(LoadError::Incompatible { reason }) => reason,
        Err(other) => panic!("{other:?}"),
        Ok(_) => "it was loaded".to_string(),
    }
}

/// Loads an artifact in this process too.
pub(crate) fn load_here(artifact: &tempfile::NamedTempFile) -> Box<dyn Program> {
    let file = artifact.reopen().unwrap();
    let size = file.metadata().unwrap().len();
    // SAFETY: it was compiled a moment ago, and no process changes it.
    let code = unsafe { NativeCode::trust(file, size) };
    crate::engine().load(code).unwrap()
}

pub(crate) fn replaced(artifact: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let at = artifact.windows(old.len()).position(|window| window == old).expect("found in the artifact");
    let mut changed = artifact.to_vec();
    changed[at..at + old.len()].copy_from_slice(new);
    changed
}

/// Counts down from 100,000.
pub(crate) const COUNTS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (local $i i32)
    (local.set $i (i32.const 100000))
    (loop $next (br_if $next (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))))"#;

/// Calls itself 50,000 times, each time with a frame of its own: the work after each call keeps it from becoming a
/// loop.
pub(crate) const RECURS: &str = r#"(module (memory (export "memory") 1)
    (func $deep (param $n i32) (result i32) (local $result i32)
        (if (result i32) (local.get $n)
            (then
                (local.set $result (call $deep (i32.sub (local.get $n) (i32.const 1))))
                (i32.store (i32.const 0) (local.get $result))
                (i32.add (i32.const 1) (local.get $result)))
            (else (i32.const 0))))
    (func (export "_start") (drop (call $deep (i32.const 50000)))))"#;

/// Compiles text with an engine of these choices.
pub(crate) fn compile_tuned(text: &str, tuning: &str) -> Result<Vec<u8>, CompileError> {
    let engine = crate::engine().tuned(&tuning.parse::<Tuning>().unwrap()).unwrap();
    engine.compile(&Wasm::new(wat::parse_str(text).unwrap()).unwrap())
}

pub(crate) fn tuned(text: &str, tuning: &str, options: &[&str]) -> Ended {
    let artifact = store(&compile_tuned(text, tuning).unwrap());
    run(&artifact, &[&["--tuning", tuning], options].concat())
}

/// A function that exists with another signature is as unknown as one that does not exist.
fn wrong_signature_is_refused() {
    let text = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32))))"#;
    assert_eq!(unknown(compile(text)), ("wasi_snapshot_preview1".to_string(), "fd_write".to_string()));
}

/// The error for invalid wasm has the validator's message and the offset.
fn invalid_wasm_is_refused() {
    let reason = invalid(compile(r#"(module (func (result i32) (i64.const 1)))"#));
    assert!(reason.contains("type mismatch") && reason.contains("offset"), "{reason}");
}

/// Compiling the same bytes gives the same artifact, so its digest can be compared.
fn compiling_twice_gives_the_same_bytes() {
    let functions: String =
        (0..200).map(|n| format!("(func (export \"f{n}\") (result i32) (i32.const {n}))")).collect();
    let text = format!("(module {functions})");
    assert!(compile(&text).unwrap() == compile(&text).unwrap());
}

/// The engine refuses a shortened file, and a file with another length than the store says.
fn damaged_headers_are_refused() {
    let artifact = compile(MODULE).unwrap();
    for length in [0, 1, 63, 64, 1000, artifact.len() / 2, artifact.len() - 1] {
        assert_ne!(load(&artifact[..length], length as u64), "it was loaded", "{length}");
    }
    let reason = load(&artifact, 1);
    assert_eq!(reason, format!("its file has {} bytes instead of 1", artifact.len()));
}

/// The engine does not run wasm that is not compiled.
fn wasm_itself_is_not_run() {
    let wasm = Wasm::new(wat::parse_str(MODULE).unwrap()).unwrap();
    match crate::engine().load_wasm(&wasm) {
        Err(LoadError::NotCompiled { engine }) => assert_eq!(engine, crate::engine().name()),
        other => panic!("{:?}", other.map(|_| "it was loaded")),
    }
}

/// A guest that needs more stack than it has traps; with more it ends as usual.
fn stack_has_a_limit() {
    let ended = tuned(RECURS, "stack=100000", &["--forked"]);
    assert_eq!(ended.code, Some(134), "{ended:?}");
    assert!(ended.stderr.contains("call stack exhausted"), "{}", ended.stderr);
    assert_eq!(tuned(RECURS, "stack=67108864", &[]).code, Some(0));
}

/// The message of a trap names its kind and the functions that led to it, and the exit code is 134.
fn trap_has_a_backtrace() {
    let program = artifact(
        r#"(module $program
            (func $inner unreachable)
            (func $outer (call $inner))
            (func (export "_start") (call $outer)))"#,
    );
    let ended = run(&program, &[]);
    assert_eq!(ended.code, Some(134));
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert!(lines[0].starts_with("the guest trapped: wasm trap: ") && lines[0].contains("unreachable"), "{}", lines[0]);
    let inner = lines.iter().position(|line| line.ends_with("program!inner")).unwrap();
    assert!(lines[inner + 1].ends_with("program!outer"), "{}", ended.stderr);
    assert_eq!(lines.len(), inner + 3, "{}", ended.stderr);
}

/// An exception that nobody catches is a trap, in a forked process, too.
fn uncaught_exception_is_a_trap() {
    let module = artifact(r#"(module (tag $tag) (func (export "_start") (throw $tag)))"#);
    for options in [&[][..], &["--forked"]] {
        let ended = run(&module, options);
        assert_eq!(ended.code, Some(134), "{}", ended.stderr);
        assert!(ended.stderr.contains("exception"), "{}", ended.stderr);
    }
}

/// A guest makes no file in a read-only folder; the same guest makes it in a writable one.
fn folders_can_be_read_only() {
    let module = opener(0, 1, 64, 64);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    for (option, code) in [("--read-only", 134), ("--dir", 0)] {
        assert_eq!(fs::read_dir(path).unwrap().count(), 0, "{option}");
        assert_eq!(run(&module, &[option, path, "/"]).code, Some(code), "{option}");
    }
    assert!(folder.path().join("file").is_file());
}

/// Loading does not read a large artifact: only a small part of its pages is ever resident.
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

/// Returns the mappings of its artifact that a guest has reported.
pub(crate) fn mappings(ended: &Ended) -> Vec<BTreeMap<&str, &str>> {
    (ended.stdout.lines())
        .filter_map(|line| line.strip_prefix("mapping "))
        .map(|line| line.split(' ').filter_map(|field| field.split_once('=')).collect())
        .collect()
}

/// Returns a number of a mapping, KiB.
pub(crate) fn number(mapping: &BTreeMap<&str, &str>, name: &str) -> usize {
    mapping[name].parse().unwrap()
}
