//! The tests that every engine passes which compiles ahead of time, and what its own tests of that begin with.

use std::fs::File;

use prewasi_engines::{CompileError, Engine, LoadError, NativeCode, Program, Tuning, Wasm};

use crate::common::{Ended, run, store, trials};

trials![
    wrong_signature_is_refused,
    invalid_wasm_is_refused,
    compiling_twice_gives_the_same_bytes,
    damaged_headers_are_refused,
    wasm_itself_is_not_run,
    stack_has_a_limit,
];

/// Compiles text.
pub(crate) fn compile(text: &str) -> Result<Vec<u8>, CompileError> {
    compile_bytes(wat::parse_str(text).unwrap())
}

/// Compiles bytes that begin as wasm does.
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
    // SAFETY: it was compiled a moment ago and nobody changes it.
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

/// Calls itself 50,000 times, with a frame of its own each.
pub(crate) const RECURS: &str = r#"(module (memory (export "memory") 1)
    (func $deep (param $n i32) (result i32)
        (if (result i32) (local.get $n)
            (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get $n) (i32.const 1)))))
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

/// Wasm that breaks the rules is refused with what the validator says and where.
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

/// A shortened file and one whose length is not what the store says are refused.
fn damaged_headers_are_refused() {
    let artifact = compile(MODULE).unwrap();
    for length in [0, 1, 63, 64, 1000, artifact.len() / 2, artifact.len() - 1] {
        assert_ne!(load(&artifact[..length], length as u64), "it was loaded", "{length}");
    }
    let reason = load(&artifact, 1);
    assert_eq!(reason, format!("its file has {} bytes instead of 1", artifact.len()));
}

/// The engine does not run what is not compiled.
fn wasm_itself_is_not_run() {
    let wasm = Wasm::new(wat::parse_str(MODULE).unwrap()).unwrap();
    assert!(matches!(crate::engine().load_wasm(&wasm), Err(LoadError::NotCompiled { engine: _ })));
}

/// A guest that needs more stack than it has traps; with more it ends as usual.
fn stack_has_a_limit() {
    let ended = tuned(RECURS, "stack=100000", &["--forked"]);
    assert_eq!(ended.code, Some(134), "{ended:?}");
    assert!(ended.stderr.contains("call stack exhausted"), "{}", ended.stderr);
    assert_eq!(tuned(RECURS, "stack=67108864", &[]).code, Some(0));
}
