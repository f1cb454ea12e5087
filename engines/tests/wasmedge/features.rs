//! Features that wasm may use.

use crate::common::{artifact, run, trials};
use crate::compiled::compile;

trials![wasm_features, wasi_uses_the_memory_of_that_name, what_cannot_run_is_refused];

/// WasmEdge has SIMD, relaxed or not, bulk memory, multiple memories, tail calls and extended constants.
fn wasm_features() {
    let module = artifact(
        r#"(module
            (memory $first 1)
            (memory $second 1)
            (global $seven i32 (i32.add (i32.const 3) (i32.const 4)))
            (func $count (param i64) (result i64)
                (if (result i64) (i64.eqz (local.get 0))
                    (then (i64.const 5))
                    (else (return_call $count (i64.sub (local.get 0) (i64.const 1))))))
            (func $expect (param i32) (if (i32.eqz (local.get 0)) (then unreachable)))
            (func (export "_start")
                (call $expect (i32.eq (global.get $seven) (i32.const 7)))
                (call $expect (i64.eq (call $count (i64.const 10000000)) (i64.const 5)))
                (call $expect (i32x4.all_true (i32x4.splat (i32.const 1))))
                (call $expect (i32x4.all_true (i32x4.relaxed_trunc_f32x4_s (f32x4.splat (f32.const 1)))))
                (i32.store $first (i32.const 65532) (i32.const 1))
                (memory.fill $second (i32.const 65532) (i32.const 1) (i32.const 4))
                (call $expect (i32.eq (i32.load $first (i32.const 65532)) (i32.const 1)))
                (call $expect (i32.eq (i32.load $second (i32.const 65532)) (i32.const 0x01010101)))))"#,
    );
    let ended = run(&module, &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

/// WASI reads and writes the memory that is exported as `memory`, and no other.
fn wasi_uses_the_memory_of_that_name() {
    let module = artifact(
        r#"(module
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
            (memory $first 1)
            (memory $named (export "memory") 1)
            (func (export "_start")
                (if (call $random (i32.const 0) (i32.const 16)) (then unreachable))
                (if (i64.ne (i64.or (i64.load $first (i32.const 0)) (i64.load $first (i32.const 8))) (i64.const 0))
                    (then unreachable))
                (if (i64.eqz (i64.or (i64.load $named (i32.const 0)) (i64.load $named (i32.const 8))))
                    (then unreachable))))"#,
    );
    let ended = run(&module, &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

/// The error for a feature that WasmEdge's compiler lacks names the proposal.
fn what_cannot_run_is_refused() {
    for (text, name) in [
        ("(module (tag))", "exceptions"),
        ("(module (memory 1 1 shared))", "shared memory"),
        ("(module (func (drop (struct.new 0))) (type (struct)))", "gc"),
        ("(module (memory i64 1))", "memory64"),
    ] {
        let reason = compile(text).unwrap_err().to_string();
        assert!(reason.to_lowercase().contains(name), "{text}: {reason}");
    }
}
