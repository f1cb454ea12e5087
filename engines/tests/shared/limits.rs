//! What a guest may be denied.

use crate::common::{artifact, run, trials};

trials![memory_is_denied, too_much_to_begin_with];

/// Starts with one page of memory and a table of 10 elements; grows each by as much, and exits with 1 for what was
/// granted in the lowest bit, 2 for the next.
pub(crate) fn growing(pages: u32, elements: u32) -> String {
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
    let module = artifact(&growing(16, 0));
    for (options, code) in [(&[][..], 3), (&["--memory", "2097152"], 3), (&["--memory", "1048576"], 2)] {
        let ended = run(&module, options);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(code), ""), "{options:?}");
    }
}

/// A guest that needs more than it may have to begin with does not run, and the reason is said.
fn too_much_to_begin_with() {
    let ended = run(&artifact(&growing(0, 0)), &["--memory", "65535"]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("exceeds memory limits"), "{}", ended.stderr);
}
