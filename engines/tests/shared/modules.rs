//! Core modules with WASI preview 1.

use std::process::Stdio;
use std::time::Duration;

use crate::common::{artifact, guest, run, trials, wait_for_end};

trials![
    exit_code_is_the_guests,
    arguments_and_environment_arrive,
    stdout_and_stderr_stay_apart,
    large_output_is_complete,
    large_table,
    exported_function,
    export_without_a_name,
    function_must_be_callable,
    stdin_does_not_hold_the_process,
    stdin_arrives,
    library_is_set_up_once,
    exit_before_the_entry_point,
    entry_point_may_return_something,
    memory_is_all_there,
    runs_again,
    runs_after_a_fork,
];

/// Writes `$length` bytes from `$start` to a descriptor.
pub(crate) const WRITE: &str = r#"
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (func $write (param $fd i32) (param $start i32) (param $length i32)
        (i32.store (i32.const 0) (local.get $start))
        (i32.store (i32.const 4) (local.get $length))
        (if (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable)))"#;

fn exiting(code: u32) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start") (call $exit (i32.const {code})) unreachable))"#
    )
}

/// The guest's exit code is the process's, up to 255; returning from the entry point is 0.
fn exit_code_is_the_guests() {
    for code in [0, 1, 7, 125, 126, 134, 255] {
        let ended = run(&artifact(&exiting(code)), &[]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(i32::try_from(code).unwrap()), ""));
    }
    assert_eq!(run(&artifact(r#"(module (func (export "_start")))"#), &[]).code, Some(0));
}

/// Arguments and environment reach the guest as they are, in their order.
fn arguments_and_environment_arrive() {
    let module = artifact(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_sizes_get" (func $env_sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_get" (func $env (param i32 i32) (result i32)))
            {WRITE}
            (memory (export "memory") 1)
            (func (export "_start")
                (drop (call $args_sizes (i32.const 16) (i32.const 20)))
                (drop (call $args (i32.const 1024) (i32.const 4096)))
                (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20)))
                (drop (call $env_sizes (i32.const 16) (i32.const 20)))
                (drop (call $env (i32.const 1024) (i32.const 4096)))
                (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20)))))"#
    ));
    let ended = run(&module, &["--env", "B", "2=3", "--env", "A", "", "--", "program", "one two", "", "ü"]);
    assert_eq!(ended.stdout, "program\0one two\0\0ü\0B=2=3\0A=\0");
    assert_eq!(ended.code, Some(0));
}

/// Output to stdout and stderr arrives there, even when the guest exits or traps.
fn stdout_and_stderr_stay_apart() {
    for end in ["", "unreachable"] {
        let ended = run(
            &artifact(&format!(
                r#"(module {WRITE}
                    (memory (export "memory") 1)
                    (data (i32.const 100) "outerr")
                    (func (export "_start")
                        (call $write (i32.const 1) (i32.const 100) (i32.const 3))
                        (call $write (i32.const 2) (i32.const 103) (i32.const 3))
                        (call $write (i32.const 1) (i32.const 100) (i32.const 3))
                        {end}))"#
            )),
            &[],
        );
        assert_eq!(ended.stdout, "outout");
        assert!(ended.stderr.starts_with("err"), "{}", ended.stderr);
    }
}

/// Output that is larger than a pipe arrives complete at a reader that is slower than the guest.
fn large_output_is_complete() {
    let module = artifact(&format!(
        r#"(module {WRITE}
            (memory (export "memory") 1)
            (data (i32.const 100) "0123456789")
            (func (export "_start") (local $left i32)
                (local.set $left (i32.const 50000))
                (loop $again
                    (call $write (i32.const 1) (i32.const 100) (i32.const 10))
                    (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))"#
    ));
    let ended = run(&module, &[]);
    assert_eq!((ended.code, ended.stdout.len()), (Some(0), 500_000));
}

/// A table of 100,000 entries, all of them functions, is no obstacle.
fn large_table() {
    let functions = "$it ".repeat(100_000);
    let module = artifact(&format!(
        r#"(module
            (type $type (func (result i32)))
            (table 100000 funcref)
            (elem (i32.const 0) {functions})
            (func $it (result i32) (i32.const 1))
            (func (export "_start")
                (if (i32.eqz (call_indirect (type $type) (i32.const 99999))) (then unreachable))))"#
    ));
    assert_eq!(run(&module, &[]).code, Some(0));
}

const LIBRARY: &str = r#"(module
    (memory (export "memory") 1)
    (global $ready (mut i32) (i32.const 0))
    (func (export "_initialize") (global.set $ready (i32.const 1)))
    (func (export "work") (result i32)
        (if (i32.eqz (global.get $ready)) (then unreachable))
        (i32.const 5))
    (func (export "wants") (param i32)))"#;

/// A named export runs instead of the entry point, after `_initialize`; its results are no exit code.
fn exported_function() {
    let ended = run(&artifact(LIBRARY), &["--function", "work"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

/// An exported function without a name runs instead of the entry point, as with `wasmtime run`; a named one goes before it.
fn export_without_a_name() {
    let module = artifact(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "") (call $exit (i32.const 3)))
            (func (export "work") (call $exit (i32.const 4)))
            (func (export "_start") (call $exit (i32.const 5))))"#,
    );
    assert_eq!(run(&module, &[]).code, Some(3));
    assert_eq!(run(&module, &["--function", "work"]).code, Some(4));
    assert_eq!(run(&module, &["--function", "_start"]).code, Some(5));
    let memory = artifact(r#"(module (memory (export "") 1) (func (export "_start")))"#);
    assert_eq!(run(&memory, &[]).code, Some(0));
}

/// The error names an entry point that does not exist, is no function or has parameters, and nothing runs.
fn function_must_be_callable() {
    let library = artifact(LIBRARY);
    for (options, reason) in [
        (vec![], "cannot call export \"_start\": there is none of that name"),
        (vec!["--function", "other"], "cannot call export \"other\": there is none of that name"),
        (vec!["--function", "wants"], "cannot call export \"wants\": it wants parameters"),
        (vec!["--function", "memory"], "cannot call export \"memory\": it is no function"),
    ] {
        let ended = run(&library, &options);
        assert_eq!((ended.code, ended.stderr.trim()), (Some(126), reason));
    }
}

/// A guest that has begun to wait for stdin can end although no input ever comes.
fn stdin_does_not_hold_the_process() {
    // Two subscriptions: descriptor 0 for reading, and a clock that is done after ten milliseconds.
    let module = artifact(
        r#"(module
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (i32.store8 (i32.const 8) (i32.const 1))
                (i32.store8 (i32.const 56) (i32.const 0))
                (i32.store (i32.const 64) (i32.const 1))
                (i64.store (i32.const 72) (i64.const 10000000))
                (if (call $poll (i32.const 0) (i32.const 256) (i32.const 2) (i32.const 512)) (then unreachable))
                (call $exit (i32.const 3))))"#,
    );
    let child = guest(module.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let stdin = child.stdin.take();
    let ended = wait_for_end(child, Duration::from_secs(20));
    drop(stdin);
    assert_eq!(ended.code, Some(3), "{ended:?}");
}

/// Input on stdin reaches the guest, and so does its end.
fn stdin_arrives() {
    let module = artifact(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
            {WRITE}
            (memory (export "memory") 1)
            (func (export "_start")
                (loop $again
                    (i32.store (i32.const 0) (i32.const 1000))
                    (i32.store (i32.const 4) (i32.const 4))
                    (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
                    (if (i32.load (i32.const 8)) (then
                        (call $write (i32.const 1) (i32.const 1000) (i32.load (i32.const 8)))
                        (br $again))))))"#
    ));
    let input = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(input.path(), "a few bytes").unwrap();
    let output = guest(module.path()).stdin(std::fs::File::open(input.path()).unwrap()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "a few bytes");
    assert_eq!(output.status.code(), Some(0));
}

/// A program that was loaded before a fork runs in the child, on a thread that is made there.
fn runs_after_a_fork() {
    let ended = run(&artifact(&exiting(7)), &["--forked"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(7), ""));
}

/// `_initialize` runs once, before a named function and not before the entry point, with WASI or without. No other
/// function that WAMR knows by its name runs at all.
fn library_is_set_up_once() {
    for import in ["", r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#] {
        let program = artifact(&format!(
            r#"(module
                {import}
                (memory (export "memory") 1)
                (global $count (mut i32) (i32.const 0))
                (func (export "_initialize") (global.set $count (i32.add (global.get $count) (i32.const 1))))
                (func (export "__wasm_call_ctors") (global.set $count (i32.const 100)))
                (func (export "__post_instantiate") (global.set $count (i32.const 100)))
                (func (export "work") (if (i32.ne (global.get $count) (i32.const 1)) (then unreachable)))
                (func (export "_start") (if (global.get $count) (then unreachable))))"#
        ));
        for options in [&[][..], &["--function", "work"], &["--function", "_initialize"]] {
            let ended = run(&program, options);
            assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{import} {options:?}");
        }
    }
}

/// A guest may exit during its set-up; its code is still the process's exit code.
fn exit_before_the_entry_point() {
    let text = |how: &str| {
        format!(
            r#"(module
                (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1)
                (func $leave (export "_initialize") (call $exit (i32.const 9)))
                {how}
                (func (export "_start") unreachable)
                (func (export "work") unreachable))"#
        )
    };
    let starting = run(&artifact(&text("(start $leave)")), &[]);
    assert_eq!((starting.code, starting.stderr.as_str()), (Some(9), ""));
    let initializing = run(&artifact(&text("")), &["--function", "work"]);
    assert_eq!((initializing.code, initializing.stderr.as_str()), (Some(9), ""));
}

/// The results of a function are no exit code, even if there are several.
fn entry_point_may_return_something() {
    let results = "i32 i64 f32 f64 funcref externref i32";
    let values =
        "(i32.const 5) (i64.const -1) (f32.const 1) (f64.const 2) (ref.null func) (ref.null extern) (i32.const 6)";
    let program = artifact(&format!(r#"(module (func (export "_start") (result {results}) {values}))"#));
    let ended = run(&program, &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

/// A program that exports the start of its heap and never grows has all the pages that it asks for.
fn memory_is_all_there() {
    let program = artifact(
        r#"(module
            (memory (export "memory") 2)
            (global $stack (mut i32) (i32.const 2048))
            (global (export "__data_end") i32 (i32.const 1024))
            (global (export "__heap_base") i32 (i32.const 2048))
            (func (export "_start")
                (i32.store (i32.const 131068) (i32.const 1))
                (if (i32.ne (memory.size) (i32.const 2)) (then unreachable))
                (global.set $stack (global.get $stack))))"#,
    );
    let ended = run(&program, &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

/// A program can run more than once in one process: WAMR changes only a copy of it.
fn runs_again() {
    let ended = run(&artifact(LIBRARY), &["--function", "work", "--twice"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
