//! Wasm that the engine refuses before a container exists.

use prewasi_engines::{CompileError, Engine as _, LoadError, NativeCode, Wamr, Wasm};

use crate::common::{artifact, run, trials};
use crate::guest::LOAD_FAILED;

trials![
    unknown_import_is_named,
    wrong_signature_is_refused,
    component_is_refused,
    invalid_wasm_is_refused,
    what_cannot_run_is_refused,
    hidden_memory_is_refused,
    nothing_is_compiled,
];

fn refused(bytes: Vec<u8>) -> CompileError {
    match Wamr::new().load_wasm(&Wasm::new(bytes).unwrap()) {
        Err(LoadError::Wasm { source }) => source,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was loaded"),
    }
}

fn refused_text(text: &str) -> CompileError {
    refused(wat::parse_str(text).unwrap())
}

fn unknown(text: &str) -> (String, String) {
    match refused_text(text) {
        CompileError::UnknownImport { module, name } => (module, name),
        other => panic!("{other:?}"),
    }
}

fn unsupported(text: &str) -> String {
    match refused_text(text) {
        CompileError::Unsupported { reason } => reason,
        other => panic!("{other:?}"),
    }
}

fn invalid(bytes: Vec<u8>) -> String {
    match refused(bytes) {
        CompileError::Invalid { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// The error names an unknown import with its module, for a function or any other kind, WAMR's own functions among
/// them.
fn unknown_import_is_named() {
    for (text, from, name) in [
        (r#"(module (import "env" "missing" (func)))"#, "env", "missing"),
        (r#"(module (import "wasi_snapshot_preview1" "fd_fly" (func)))"#, "wasi_snapshot_preview1", "fd_fly"),
        (
            r#"(module (import "wasi_snapshot_preview1" "sock_open" (func (param i32 i32 i32 i32) (result i32))))"#,
            "wasi_snapshot_preview1",
            "sock_open",
        ),
        (r#"(module (import "env" "memory" (memory 1)))"#, "env", "memory"),
        (
            r#"(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
                       (import "wasi" "thread-spawn" (func (param i32) (result i32))) (func (export "_start")))"#,
            "wasi",
            "thread-spawn",
        ),
    ] {
        assert_eq!(unknown(text), (from.to_owned(), name.to_owned()));
        let ended = run(&artifact(text), &[]);
        assert_eq!(ended.code, Some(LOAD_FAILED));
        assert!(ended.stderr.contains(&format!("cannot provide import {name:?} of {from:?}")), "{}", ended.stderr);
    }
}

/// A function that exists with another signature is as unknown as one that does not exist.
fn wrong_signature_is_refused() {
    for signature in ["(param i32)", "(param i32 i32 i32 i32)", "(param i32 i32 i32 i64) (result i32)"] {
        let text = format!(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func {signature})))"#);
        assert_eq!(unknown(&text), ("wasi_snapshot_preview1".to_owned(), "fd_write".to_owned()));
    }
}

/// WAMR does not run a component, and the error says so.
fn component_is_refused() {
    assert_eq!(unsupported("(component)"), "wamr runs core modules, and this is a component");
}

/// The error for wasm that is invalid or ends early has the validator's message and the offset.
fn invalid_wasm_is_refused() {
    let reason = invalid(wat::parse_str(r#"(module (func (result i32) (i64.const 1)))"#).unwrap());
    assert!(reason.contains("type mismatch") && reason.contains("offset"), "{reason}");
    let mut short = wat::parse_str(r#"(module (memory 1) (func (export "_start")))"#).unwrap();
    short.truncate(short.len() - 1);
    invalid(short);
}

/// The error for valid wasm that uses a feature which WAMR lacks names the feature.
fn what_cannot_run_is_refused() {
    for (text, name) in [
        ("(module (func (drop (v128.const i32x4 0 0 0 0))))", "SIMD"),
        ("(module (memory 1) (memory 1))", "multi"),
        ("(module (memory i64 1))", "memory64"),
        ("(module (memory 1 1 shared))", "threads"),
        ("(module (tag))", "exceptions"),
    ] {
        let reason = invalid(wat::parse_str(text).unwrap());
        assert!(reason.to_lowercase().contains(&name.to_lowercase()), "{name}: {reason}");
    }
}

/// A module that imports WASI must export its memory; a module without imports need not have one.
fn hidden_memory_is_refused() {
    let text = r#"(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32))) (memory 1))"#;
    assert!(unsupported(text).contains("export its memory"));
    let ended = run(&artifact(r#"(module (func (export "_start")))"#), &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

/// The engine says that it does not compile, and takes no native code.
fn nothing_is_compiled() {
    let engine = Wamr::new();
    assert!(!engine.compiles());
    let file = artifact("(module)");
    let wasm = Wasm::new(std::fs::read(file.path()).unwrap()).unwrap();
    assert!(
        matches!(engine.compile(&wasm), Err(CompileError::Unsupported { reason }) if reason.contains("interprets"))
    );
    // SAFETY: it is not loaded.
    let code = unsafe { NativeCode::trust(file.reopen().unwrap(), 8) };
    assert!(matches!(engine.load(code), Err(LoadError::Incompatible { reason }) if reason.contains("interprets")));
}
