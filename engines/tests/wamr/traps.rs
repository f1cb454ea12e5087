//! Faults of a guest that WAMR has in a way of its own.

use crate::common::{artifact, run, trials};

trials![start_function_traps, stack_has_a_limit];

/// A module that faults while an instance of it is made has trapped as well.
fn start_function_traps() {
    let text =
        r#"(module (memory (export "memory") 1) (func $begin unreachable) (start $begin) (func (export "_start")))"#;
    let ended = run(&artifact(text), &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(134), "the guest trapped: wasm trap: unreachable\n"));
    let text = r#"(module (memory (export "memory") 1) (data (i32.const 65536) "x") (func (export "_start")))"#;
    let ended = run(&artifact(text), &[]);
    assert!(matches!(ended.code, Some(126 | 134)) && ended.stderr.contains("out of bounds"), "{ended:?}");
}

/// A guest that needs more stack than it has traps; with more it ends as usual.
fn stack_has_a_limit() {
    // Calls itself 5,000 times, with a frame of its own each.
    let module = artifact(
        r#"(module (memory (export "memory") 1)
            (func $deep (param $n i32) (result i32)
                (if (result i32) (local.get $n)
                    (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get $n) (i32.const 1)))))
                    (else (i32.const 0))))
            (func (export "_start") (drop (call $deep (i32.const 5000)))))"#,
    );
    assert_eq!(run(&module, &[]).code, Some(0));
    assert_eq!(run(&module, &["--tuning", "stack=65536"]).code, Some(134));
    assert_eq!(run(&module, &["--tuning", "stack=67108864", "--forked"]).code, Some(0));
}
