//! Limits of a guest.

use crate::common::{artifact, run, trials};

trials![memory_is_denied, too_much_to_begin_with];

/// Returns a guest that starts with one page of memory and a table of 10 elements, and grows both. Bit 0 of its exit
/// code says that the memory grew by `pages`, bit 1 that the table grew by `elements`.
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

/// A guest that asks for more than its limit gets -1 and goes on; without a limit it gets all that it asks for.
fn memory_is_denied() {
    let module = artifact(&growing(16, 0));
    for (options, code) in [(&[][..], 3), (&["--memory", "2097152"], 3), (&["--memory", "1048576"], 2)] {
        let ended = run(&module, options);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(code), ""), "{options:?}");
    }
}

/// A guest that needs more than its limit to begin with does not run, and the error says why.
fn too_much_to_begin_with() {
    let ended = run(&artifact(&growing(0, 0)), &["--memory", "65535"]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("exceeds memory limits"), "{}", ended.stderr);
}
