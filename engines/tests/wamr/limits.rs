//! What a guest may be denied: memory, and what WAMR cannot do at all.

use crate::common::{module, run, trials};

trials![memory_is_denied, tables_count_too, too_much_to_begin_with, no_page_is_no_limit, fuel_is_refused, no_network];

/// Starts with one page of memory and a table of 10 elements; grows each by as much, and exits with 1 for what was
/// granted in the lowest bit, 2 for the next.
fn growing(pages: u32, elements: u32) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (table 10 1000 funcref)
            (func (export "_start")
                (call $exit (i32.or
                    (i32.ne (memory.grow (i32.const {pages})) (i32.const -1))
                    (i32.shl (i32.ne (table.grow (ref.null func) (i32.const {elements})) (i32.const -1)) (i32.const 1))))
                unreachable))"#
    )
}

/// A guest that asks for more than it may have gets -1 and goes on; without a limit it gets what it asks for.
fn memory_is_denied() {
    let module = module(&growing(16, 0));
    for (options, code) in [(&[][..], 3), (&["--memory", "2097152"], 3), (&["--memory", "1048576"], 2)] {
        let ended = run(&module, options);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(code), ""), "{options:?}");
    }
}

/// Tables are of the same memory, a pointer for each element that they may ever have, for WAMR takes it at once.
fn tables_count_too() {
    let module = module(&growing(1, 900));
    for (limit, code) in [("139072", 3), ("139071", 2), ("73536", 2), ("73535", 126)] {
        assert_eq!(run(&module, &["--memory", limit]).code, Some(code), "{limit}");
    }
}

/// A guest that needs more than it may have to begin with does not run, and the reason is said.
fn too_much_to_begin_with() {
    let ended = run(&module(&growing(0, 0)), &["--memory", "65535"]);
    assert_eq!(ended.code, Some(126));
    let reason =
        "cannot set up the guest: its memory and tables begin with 73536 bytes, which exceeds memory limits (65535)\n";
    assert_eq!(ended.stderr, reason);
}

/// A limit that leaves no page at all, which WAMR takes for no limit, is refused, save for memory that cannot grow.
fn no_page_is_no_limit() {
    let text = |memory: &str| format!(r#"(module (memory (export "memory") {memory}) (func (export "_start")))"#);
    let ended = run(&module(&text("0")), &["--memory", "65535"]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("leaves it no page"), "{}", ended.stderr);
    assert_eq!(run(&module(&text("0 0")), &["--memory", "65535"]).code, Some(0));
    assert_eq!(run(&module(&text("0")), &["--memory", "65536"]).code, Some(0));
}

/// WAMR does not count what is executed: a guest that is given fuel does not run.
fn fuel_is_refused() {
    let ended = run(&module(&growing(0, 0)), &["--fuel", "1000"]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("cannot limit how much a guest executes"), "{}", ended.stderr);
}

/// A guest without a network runs: it has no function that makes a socket, and no descriptor that is one.
fn no_network() {
    let module = module(
        r#"(module
            (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start") (local $fd i32)
                (loop $next
                    (if (i32.eqz (call $accept (local.get $fd) (i32.const 0) (i32.const 8))) (then (call $exit (i32.const 1))))
                    (br_if $next (i32.lt_u (local.tee $fd (i32.add (local.get $fd) (i32.const 1))) (i32.const 16))))))"#,
    );
    let ended = run(&module, &["--no-network"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
