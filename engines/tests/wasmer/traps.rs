//! Faults of a guest, which end it and nothing else.

use crate::common::{artifact, run, trials};

trials![trap_has_a_backtrace, each_fault_is_a_trap, traps_survive_a_fork];

/// The message of a trap names its kind and the functions that led to it, and the exit code is 134.
fn trap_has_a_backtrace() {
    let ended = run(
        &artifact(
            r#"(module $program
                (func $inner unreachable)
                (func $outer (call $inner))
                (func (export "_start") (call $outer)))"#,
        ),
        &[],
    );
    assert_eq!(ended.code, Some(134));
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines[0], "the guest trapped: wasm trap: unreachable");
    assert!(lines[1].ends_with("program!inner"), "{}", ended.stderr);
    assert!(lines[2].ends_with("program!outer"), "{}", ended.stderr);
    assert_eq!(lines.len(), 4, "{}", ended.stderr);
}

/// One guest for each way a fault reaches the engine: three signals, the stack's limit, an exception that nobody caught.
const FAULTS: [(&str, &str); 5] = [
    ("unreachable", "unreachable"),
    ("(i32.store (i32.const 0x7ffffff0) (i32.const 1))", "out of bounds memory access"),
    ("(drop (i32.div_s (i32.const 1) (global.get $zero)))", "integer divide by zero"),
    ("(call $recurse)", "call stack exhausted"),
    ("(throw $tag)", "exception"),
];

fn faulty(fault: &str) -> String {
    format!(
        r#"(module
            (memory (export "memory") 1)
            (tag $tag)
            (global $zero (mut i32) (i32.const 0))
            (func $recurse (call $recurse) (global.set $zero (i32.const 0)))
            (func (export "_start") {fault}))"#
    )
}

/// Each kind of fault ends the guest with a message of its own.
fn each_fault_is_a_trap() {
    for (fault, message) in FAULTS {
        let ended = run(&artifact(&faulty(fault)), &[]);
        assert_eq!(ended.code, Some(134), "{fault}: {}", ended.stderr);
        assert!(ended.stderr.contains(message), "{fault}: {}", ended.stderr);
    }
}

/// Traps work in a forked process whose signals were all set back to their defaults and blocked.
fn traps_survive_a_fork() {
    for (fault, message) in FAULTS {
        let ended = run(&artifact(&faulty(fault)), &["--forked"]);
        assert_eq!(ended.code, Some(134), "{fault}: {}", ended.stderr);
        assert!(ended.stderr.contains(message), "{fault}: {}", ended.stderr);
    }
}
