//! Components with WASI preview 2.

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};
use wit_component::ComponentEncoder;

use crate::common::{artifact, run, store, trials};
use crate::compiled::compile_bytes;
use crate::shared::modules::WRITE;

trials![
    result_is_the_exit_code,
    exit_code_is_the_guests,
    program_made_from_a_module,
    trap_of_a_component,
    named_function,
    entry_must_exist,
    command_of_preview_3,
    initial_cwd
];

/// A command that succeeds.
pub(crate) const SUCCEEDS: &str = r#"(component
    (core module $code (func (export "run") (result i32) (i32.const 0)))
    (core instance $code (instantiate $code))
    (func $run (result (result)) (canon lift (core func $code "run")))
    (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#;

fn encode(module: &str) -> tempfile::NamedTempFile {
    let component = ComponentEncoder::default()
        .module(&wat::parse_str(module).unwrap())
        .unwrap()
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)
        .unwrap()
        .encode()
        .unwrap();
    store(&compile_bytes(component).unwrap())
}

/// A command that returns is 0 or, with an error, 1.
fn result_is_the_exit_code() {
    assert_eq!(run(&artifact(SUCCEEDS), &[]).code, Some(0));
    let failing = SUCCEEDS.replace("(i32.const 0)", "(i32.const 1)");
    assert_eq!(run(&artifact(&failing), &[]).code, Some(1));
}

/// A component that exits with a code ends with it.
fn exit_code_is_the_guests() {
    for code in [0, 7, 255] {
        let component = artifact(&format!(
            r#"(component
                (import "wasi:cli/exit@0.2.0"
                    (instance $exit (export "exit-with-code" (func (param "status-code" u8)))))
                (core func $exit (canon lower (func $exit "exit-with-code")))
                (core module $code
                    (import "exit" "exit" (func $exit (param i32)))
                    (func (export "run") (result i32) (call $exit (i32.const {code})) unreachable))
                (core instance $code (instantiate $code (with "exit" (instance (export "exit" (func $exit))))))
                (func $run (result (result)) (canon lift (core func $code "run")))
                (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#
        ));
        let ended = run(&component, &[]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(code), ""));
    }
}

/// A module that was wrapped in a component prints, gets its arguments and exits as before. But the usual adapter
/// passes on only whether its exit code is 0.
fn program_made_from_a_module() {
    for (code, passed_on) in [(0, 0), (7, 1), (255, 1)] {
        let component = encode(&format!(
            r#"(module
                (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                {WRITE}
                (memory (export "memory") 1)
                (func (export "_start")
                    (drop (call $args_sizes (i32.const 16) (i32.const 20)))
                    (drop (call $args (i32.const 1024) (i32.const 4096)))
                    (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20)))
                    (call $write (i32.const 2) (i32.const 4096) (i32.const 7))
                    (call $exit (i32.const {code}))
                    unreachable))"#
        ));
        let ended = run(&component, &["--forked", "--", "program", "argument"]);
        assert_eq!(ended.stdout, "program\0argument\0");
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(passed_on), "program"));
    }
}

/// A component traps as a module does.
fn trap_of_a_component() {
    let trapping = SUCCEEDS.replace("(i32.const 0)", "unreachable");
    let ended = run(&artifact(&trapping), &["--forked"]);
    assert_eq!(ended.code, Some(134), "{ended:?}");
    assert!(ended.stderr.contains("`unreachable`") && ended.stderr.contains("backtrace"), "{}", ended.stderr);
}

/// A named export of a component runs instead of its entry point; an error that it returns is exit code 1.
fn named_function() {
    let text = |result: u32| {
        format!(
            r#"(component
                (core module $code (func (export "run") (result i32) (i32.const {result})))
                (core instance $code (instantiate $code))
                (func (export "work") (result (result)) (canon lift (core func $code "run")))
                (func (export "number") (result u32) (canon lift (core func $code "run"))))"#
        )
    };
    assert_eq!(run(&artifact(&text(0)), &["--function", "work"]).code, Some(0));
    assert_eq!(run(&artifact(&text(1)), &["--function", "work"]).code, Some(1));
    assert_eq!(run(&artifact(&text(1)), &["--function", "number"]).code, Some(0));
}

/// A component without an entry point, or without the named export, does not run.
fn entry_must_exist() {
    let ended = run(&artifact("(component)"), &[]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("wasi:cli/run"), "{}", ended.stderr);
    let ended = run(&artifact(SUCCEEDS), &["--function", "other"]);
    assert_eq!(ended.code, Some(126));
    assert_eq!(ended.stderr.trim(), "cannot call export \"other\": there is none of that name");
}

/// A component that asks for its working directory gets it.
fn initial_cwd() {
    // Succeeds if the working directory is a string of five bytes.
    let component = artifact(
        r#"(component
            (import "wasi:cli/environment@0.2.0"
                (instance $environment (export "initial-cwd" (func (result (option string))))))
            (core module $libc
                (memory (export "memory") 1)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
            (core instance $libc (instantiate $libc))
            (core func $initial-cwd (canon lower (func $environment "initial-cwd")
                (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
            (core module $code
                (import "libc" "memory" (memory 1))
                (import "environment" "initial-cwd" (func $initial-cwd (param i32)))
                (func (export "run") (result i32)
                    (call $initial-cwd (i32.const 16))
                    (i32.ne (i32.load (i32.const 24)) (i32.const 5))))
            (core instance $code (instantiate $code
                (with "libc" (instance $libc))
                (with "environment" (instance (export "initial-cwd" (func $initial-cwd))))))
            (func $run (result (result)) (canon lift (core func $code "run")))
            (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#,
    );
    assert_eq!(run(&component, &["--cwd", "/work"]).code, Some(0));
    assert_eq!(run(&component, &["--cwd", "/workshop"]).code, Some(1));
}

/// A command of preview 3, with an asynchronous function, runs; its result is the exit code.
fn command_of_preview_3() {
    let text = |result: u32| {
        format!(
            r#"(component
                (core func $return (canon task.return (result (result))))
                (core module $code
                    (import "task" "return" (func $return (param i32)))
                    (func (export "run") (result i32) (call $return (i32.const {result})) (i32.const 0))
                    (func (export "again") (param i32 i32 i32) (result i32) unreachable))
                (core instance $code (instantiate $code
                    (with "task" (instance (export "return" (func $return))))))
                (func $run async (result (result)) (canon lift (core func $code "run")
                    async (callback (core func $code "again"))))
                (instance (export "wasi:cli/run@0.3.0") (export "run" (func $run))))"#
        )
    };
    for code in [0, 1] {
        let ended = run(&artifact(&text(code)), &["--forked"]);
        assert_eq!(ended.code, i32::try_from(code).ok(), "{ended:?}");
    }
    // The engine also offers an interface of preview 3 to a component that calls it in the ordinary way.
    let clock = SUCCEEDS.replace(
        "(component",
        r#"(component (import "wasi:clocks/monotonic-clock@0.3.0" (instance (export "now" (func (result u64)))))"#,
    );
    assert_eq!(run(&artifact(&clock), &[]).code, Some(0));
}
