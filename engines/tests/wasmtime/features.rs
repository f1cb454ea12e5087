//! Features that wasm may use.

use crate::common::{artifact, run, trials};

trials![wasm_3_features];

/// wasmtime has exceptions, tail calls, SIMD, atomics, 64-bit and multiple memories, and garbage collection.
fn wasm_3_features() {
    let module = artifact(
        r#"(module
            (tag $tag (param i32))
            (type $pair (struct (field i32) (field i32)))
            (memory $small 1)
            (memory $large i64 1)
            (func $throw (throw $tag (i32.const 7)))
            (func $catch (result i32)
                (block $caught (result i32)
                    (try_table (catch $tag $caught) (call $throw))
                    unreachable))
            (func $count (param i64) (result i64)
                (if (result i64) (i64.eqz (local.get 0))
                    (then (i64.const 5))
                    (else (return_call $count (i64.sub (local.get 0) (i64.const 1))))))
            (func $expect (param i32) (if (i32.eqz (local.get 0)) (then unreachable)))
            (func (export "_start")
                (call $expect (i32.eq (call $catch) (i32.const 7)))
                (call $expect (i64.eq (call $count (i64.const 1000000)) (i64.const 5)))
                (call $expect (i32x4.all_true (i32x4.splat (i32.const 1))))
                (call $expect (i32.eqz (i32.atomic.rmw.add $small (i32.const 8) (i32.const 3))))
                (i32.store $large (i64.const 65532) (i32.const 1))
                (call $expect (i32.load $large (i64.const 65532)))
                (call $expect (struct.get $pair 1 (struct.new $pair (i32.const 0) (i32.const 1))))))"#,
    );
    let ended = run(&module, &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
