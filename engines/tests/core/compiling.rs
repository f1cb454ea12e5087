//! Wasm that engines of core modules refuse before a container exists, and wasm that they accept.

use prewasi_engines::CompileError;

use crate::common::{artifact, run, trials};
use crate::compiled::{compile, compile_bytes, invalid, unknown};

trials![
    unknown_import_is_named,
    component_is_refused,
    shared_memory_is_refused,
    truncated_wasm_is_refused,
    what_cannot_run_is_refused,
    guest_without_memory,
];

fn unsupported(result: Result<Vec<u8>, CompileError>) -> String {
    match result {
        Err(CompileError::Unsupported { reason }) => reason,
        other => panic!("{:?}", other.map(|artifact| artifact.len())),
    }
}

/// The error names an unknown import with its module, for a function or any other kind. An engine's extensions of WASI
/// are unknown too.
fn unknown_import_is_named() {
    for (text, module, name) in [
        (r#"(module (import "env" "missing" (func)))"#, "env", "missing"),
        (r#"(module (import "wasi_snapshot_preview1" "fd_fly" (func)))"#, "wasi_snapshot_preview1", "fd_fly"),
        (r#"(module (import "env" "memory" (memory 1)))"#, "env", "memory"),
        (
            r#"(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
                       (import "wasi" "thread-spawn" (func (param i32) (result i32))) (func (export "_start")))"#,
            "wasi",
            "thread-spawn",
        ),
        (
            r#"(module (import "wasi_snapshot_preview1" "thread-spawn" (func (param i32) (result i32))))"#,
            "wasi_snapshot_preview1",
            "thread-spawn",
        ),
        (r#"(module (import "wasix_32v1" "proc_id" (func (param i32) (result i32))))"#, "wasix_32v1", "proc_id"),
        (
            r#"(module (import "wasi_snapshot_preview1" "sock_open" (func (param i32 i32 i32) (result i32))))"#,
            "wasi_snapshot_preview1",
            "sock_open",
        ),
    ] {
        assert_eq!(unknown(compile(text)), (module.to_string(), name.to_string()));
    }
}

/// The engine refuses a component, and the error names an engine that runs it.
fn component_is_refused() {
    let reason = unsupported(compile("(component)"));
    assert!(reason.contains("component") && reason.contains("wasmtime"), "{reason}");
}

/// The engine refuses a memory for threads, and the error says so.
fn shared_memory_is_refused() {
    let reason = unsupported(compile(r#"(module (memory 1 2 shared))"#));
    assert!(reason.contains("shared memory"), "{reason}");
}

/// Wasm that ends early is refused wherever it ends, and never crashes the compiler.
fn truncated_wasm_is_refused() {
    let whole = wat::parse_str(
        r#"(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
            (memory 1) (func (export "_start") (drop (call 0))) (data (i32.const 0) "data"))"#,
    )
    .unwrap();
    let mut refused = 0;
    for length in 8..whole.len() {
        // Bytes that end between two sections may be whole wasm, only smaller.
        refused += usize::from(matches!(compile_bytes(whole[..length].to_vec()), Err(CompileError::Invalid { .. })));
    }
    assert!(refused > whole.len() / 2, "{refused} of {}", whole.len());
}

/// The error for valid wasm that uses a disabled feature names the feature.
fn what_cannot_run_is_refused() {
    let reason = invalid(compile(r#"(module (memory i64 1))"#));
    assert!(reason.contains("memory64"), "{reason}");
}

/// A guest without a memory calls functions that need none.
fn guest_without_memory() {
    let module = artifact(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
            (func (export "_start") (drop (call $yield)) (call $exit (i32.const 9))))"#,
    );
    let ended = run(&module, &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(9), ""));
}
