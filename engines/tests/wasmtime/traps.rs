//! Faults of a guest that only this engine has, or tells more of.

use crate::common::{artifact, run, trials};

trials![trap_has_a_backtrace, uncaught_exception_is_a_trap];

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
    assert_eq!(lines[0], "the guest trapped: wasm trap: wasm `unreachable` instruction executed");
    assert!(lines[2].ends_with("program!inner"), "{}", ended.stderr);
    assert!(lines[3].ends_with("program!outer"), "{}", ended.stderr);
    assert_eq!(lines.len(), 5, "{}", ended.stderr);
}

/// An exception that nobody catches is a trap, in a forked process, too.
fn uncaught_exception_is_a_trap() {
    let module = artifact(r#"(module (tag $tag) (func (export "_start") (throw $tag)))"#);
    for options in [&[][..], &["--forked"]] {
        let ended = run(&module, options);
        assert_eq!(ended.code, Some(134), "{}", ended.stderr);
        assert!(ended.stderr.contains("exception"), "{}", ended.stderr);
    }
}
