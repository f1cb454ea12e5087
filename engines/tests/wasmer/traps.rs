//! Faults of a guest, which end it and nothing else.

use crate::common::{artifact, run, trials};

trials![trap_has_a_backtrace, exception_that_nobody_catches];

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

/// An exception that nobody catches is a trap, after a fork too.
fn exception_that_nobody_catches() {
    let program = artifact(r#"(module (tag $tag) (func (export "_start") (throw $tag)))"#);
    for options in [&[][..], &["--forked"]] {
        let ended = run(&program, options);
        assert_eq!(ended.code, Some(134), "{}", ended.stderr);
        assert!(ended.stderr.contains("exception"), "{}", ended.stderr);
    }
}
