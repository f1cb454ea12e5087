//! Faults of a guest, which end it and nothing else.

use crate::common::{module, run, trials};

trials![each_fault_is_a_trap, traps_survive_a_fork, start_function_traps, stack_has_a_limit];

/// One guest for each fault, and what WAMR calls it.
const FAULTS: [(&str, &str); 5] = [
    ("unreachable", "unreachable"),
    ("(i32.store (i32.const 0x7ffffff0) (i32.const 1))", "out of bounds memory access"),
    ("(drop (i32.div_s (i32.const 1) (global.get $zero)))", "integer divide by zero"),
    ("(call $recurse)", "call stack exhausted"),
    ("(call_indirect (i32.const 3))", "undefined element"),
];

fn faulty(fault: &str) -> String {
    format!(
        r#"(module
            (memory (export "memory") 1)
            (table 1 1 funcref)
            (global $zero (mut i32) (i32.const 0))
            (func $recurse (call $recurse) (global.set $zero (i32.const 0)))
            (func (export "_start") {fault}))"#
    )
}

/// Each kind of fault ends the guest with 134 and a message of its own.
fn each_fault_is_a_trap() {
    for (fault, message) in FAULTS {
        let ended = run(&module(&faulty(fault)), &[]);
        assert_eq!(ended.code, Some(134), "{fault}: {}", ended.stderr);
        let start = "the guest trapped: wasm trap: ";
        assert!(ended.stderr.starts_with(start) && ended.stderr.contains(message), "{fault}: {}", ended.stderr);
        assert_eq!((ended.stdout.as_str(), ended.stderr.lines().count()), ("", 1), "{fault}: {}", ended.stderr);
    }
}

/// Traps work in a forked process whose signals were all set back to their defaults and blocked.
fn traps_survive_a_fork() {
    for (fault, message) in FAULTS {
        let ended = run(&module(&faulty(fault)), &["--forked"]);
        assert_eq!(ended.code, Some(134), "{fault}: {}", ended.stderr);
        assert!(ended.stderr.contains(message), "{fault}: {}", ended.stderr);
    }
}

/// A module that faults while an instance of it is made has trapped as well.
fn start_function_traps() {
    let text =
        r#"(module (memory (export "memory") 1) (func $begin unreachable) (start $begin) (func (export "_start")))"#;
    let ended = run(&module(text), &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(134), "the guest trapped: wasm trap: unreachable\n"));
    let text = r#"(module (memory (export "memory") 1) (data (i32.const 65536) "x") (func (export "_start")))"#;
    let ended = run(&module(text), &[]);
    assert!(matches!(ended.code, Some(126 | 134)) && ended.stderr.contains("out of bounds"), "{ended:?}");
}

/// A guest that needs more stack than it has traps; with more it ends as usual.
fn stack_has_a_limit() {
    // Calls itself 5,000 times, with a frame of its own each.
    let module = module(
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
