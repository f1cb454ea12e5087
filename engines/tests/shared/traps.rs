//! Faults of a guest. They end the guest and nothing else.

use crate::common::{artifact, run, trials};

trials![each_fault_is_a_trap, traps_survive_a_fork];

/// One guest for each fault, and the fault's name in the engine's message.
const FAULTS: [(&str, &str); 6] = [
    ("unreachable", "unreachable"),
    ("(i32.store (i32.const 0x7ffffff0) (i32.const 1))", "out of bounds memory access"),
    ("(drop (i32.div_s (i32.const 1) (global.get $zero)))", "integer divide by zero"),
    ("(call $recurse)", "call stack exhausted"),
    ("(call $recurse_with_calls)", "call stack exhausted"),
    ("(call_indirect (i32.const 3))", "undefined element"),
];

fn faulty(fault: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
            (memory (export "memory") 1)
            (table 1 1 funcref)
            (global $zero (mut i32) (i32.const 0))
            (func $recurse (call $recurse) (global.set $zero (i32.const 0)))
            (func $recurse_with_calls
                (drop (call $prestat (i32.const 3) (i32.const 0)))
                (call $recurse_with_calls)
                (global.set $zero (i32.const 0)))
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

/// Traps work in a forked process that has reset all signals to their defaults and blocked them.
fn traps_survive_a_fork() {
    for (fault, message) in FAULTS {
        let ended = run(&artifact(&faulty(fault)), &["--forked"]);
        assert_eq!(ended.code, Some(134), "{fault}: {}", ended.stderr);
        assert!(ended.stderr.contains(message), "{fault}: {}", ended.stderr);
    }
}
