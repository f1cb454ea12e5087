//! What wasm may use.

use crate::common::{artifact, run, trials};

trials![wasm_features, exceptions];

/// SIMD, relaxed or not, bulk memory, multiple memories, tail calls and extended constants are there.
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

/// An exception is caught, and brings its value.
fn exceptions() {
    let module = artifact(
        r#"(module
            (tag $tag (param i32))
            (func $throw (throw $tag (i32.const 7)))
            (func (export "_start")
                (block $caught (result i32)
                    (try_table (catch $tag $caught) (call $throw))
                    unreachable)
                (if (i32.ne (i32.const 7)) (then unreachable))))"#,
    );
    let ended = run(&module, &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
