//! Limits of a guest, and limits that WAMR does not have.

use crate::common::{artifact, run, trials};
use crate::shared::limits::growing;

trials![tables_count_too, no_page_is_no_limit, fuel_is_refused, no_network];

/// Tables use the same memory: a pointer for each element that they may ever have, because WAMR takes all of it at
/// once.
fn tables_count_too() {
    let module = artifact(&growing(1, 900));
    for (limit, code) in [("139072", 3), ("139071", 2), ("73536", 2), ("73535", 126)] {
        assert_eq!(run(&module, &["--memory", limit]).code, Some(code), "{limit}");
    }
}

/// The engine refuses a limit that leaves no page, because WAMR takes it for no limit. Memory that cannot grow is the
/// exception.
fn no_page_is_no_limit() {
    let text = |memory: &str| format!(r#"(module (memory (export "memory") {memory}) (func (export "_start")))"#);
    let ended = run(&artifact(&text("0")), &["--memory", "65535"]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("leaves it no page"), "{}", ended.stderr);
    assert_eq!(run(&artifact(&text("0 0")), &["--memory", "65535"]).code, Some(0));
    assert_eq!(run(&artifact(&text("0")), &["--memory", "65536"]).code, Some(0));
}

/// WAMR does not count fuel: a guest with fuel does not run.
fn fuel_is_refused() {
    let ended = run(&artifact(&growing(0, 0)), &["--fuel", "1000"]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("cannot limit how much a guest executes"), "{}", ended.stderr);
}

/// A guest without a network runs: it has no function that makes a socket, and no descriptor of a socket.
fn no_network() {
    let module = artifact(
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
