//! Features that wasm may use.

use crate::common::{artifact, run, trials};

trials![wasm_features];

/// wasmer has exceptions, SIMD, atomics, bulk memory and multiple memories.
fn wasm_features() {
    let module = artifact(
        r#"(module
            (tag $tag (param i32))
            (memory $first 1)
            (memory $second 1)
            (func $throw (throw $tag (i32.const 7)))
            (func $catch (result i32)
                (block $caught (result i32)
                    (try_table (catch $tag $caught) (call $throw))
                    unreachable))
            (func $expect (param i32) (if (i32.eqz (local.get 0)) (then unreachable)))
            (func (export "_start")
                (call $expect (i32.eq (call $catch) (i32.const 7)))
                (call $expect (i32x4.all_true (i32x4.splat (i32.const 1))))
                (call $expect (i32.eqz (i32.atomic.rmw.add $first (i32.const 8) (i32.const 3))))
                (memory.fill $second (i32.const 65532) (i32.const 1) (i32.const 4))
                (call $expect (i32.eq (i32.load $second (i32.const 65532)) (i32.const 0x01010101)))))"#,
    );
    let ended = run(&module, &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
