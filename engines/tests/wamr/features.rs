//! Features that wasm may use.

use crate::common::{artifact, run, trials};

trials![features];

/// WAMR has bulk memory, references, several results, saturating conversions, sign extension, tail calls and extended
/// constants.
fn features() {
    let program = artifact(
        r#"(module
            (memory (export "memory") 1)
            (global $seven i32 (i32.add (i32.const 3) (i32.const 4)))
            (table $table 2 externref)
            (func $two (result i32 i64) (i32.const 1) (i64.const 2))
            (func $count (param i64) (result i64)
                (if (result i64) (i64.eqz (local.get 0))
                    (then (i64.const 5))
                    (else (return_call $count (i64.sub (local.get 0) (i64.const 1))))))
            (func $expect (param i32) (if (i32.eqz (local.get 0)) (then unreachable)))
            (func (export "_start")
                (call $expect (i32.eq (global.get $seven) (i32.const 7)))
                (call $expect (i64.eq (call $count (i64.const 1000000)) (i64.const 5)))
                (call $expect (call $two) (drop))
                (call $expect (i32.eq (i32.trunc_sat_f64_s (f64.const 1e99)) (i32.const 0x7fffffff)))
                (call $expect (i32.eq (i32.extend8_s (i32.const 255)) (i32.const -1)))
                (memory.fill (i32.const 100) (i32.const 9) (i32.const 50))
                (memory.copy (i32.const 200) (i32.const 100) (i32.const 50))
                (call $expect (i32.eq (i32.load8_u (i32.const 249)) (i32.const 9)))
                (call $expect (ref.is_null (table.get $table (i32.const 1))))))"#,
    );
    let ended = run(&program, &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
