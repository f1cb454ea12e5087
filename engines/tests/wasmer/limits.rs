//! What a guest may be denied: memory, changes to files.

use std::fs;

use crate::common::{artifact, run, trials};

trials![memory_is_denied, tables_count_too, too_much_to_begin_with, folders_can_be_read_only];

/// Starts with one page of memory and a table of 10 elements; grows each by as much, and exits with 1 for what was
/// granted in the lowest bit, 2 for the next.
fn growing(pages: u32, elements: u32) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (table 10 funcref)
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

/// Tables are of the same memory: one may grow by an eighth of what is left when it is made, 8 bytes for each element.
fn tables_count_too() {
    let module = artifact(&growing(0, 10_000));
    for (options, code) in [(&[][..], 3), (&["--memory", "800000"], 3), (&["--memory", "500000"], 1)] {
        assert_eq!(run(&module, options).code, Some(code), "{options:?}");
    }
}

/// A guest that needs more than it may have to begin with does not run, and the reason is said.
fn too_much_to_begin_with() {
    let ended = run(&artifact(&growing(0, 0)), &["--memory", "65535"]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("exceeds the memory limit"), "{}", ended.stderr);
}

/// In a read-only folder no file is made; the same guest makes it in one that is not.
fn folders_can_be_read_only() {
    let module = artifact(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 100) "file")
            (func (export "_start")
                (if (call $open (i32.const 4) (i32.const 0) (i32.const 100) (i32.const 4) (i32.const 1)
                        (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 400)) (then unreachable))))"#,
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    for (option, code) in [("--read-only", 134), ("--dir", 0)] {
        assert_eq!(fs::read_dir(path).unwrap().count(), 0, "{option}");
        assert_eq!(run(&module, &[option, path, "/"]).code, Some(code), "{option}");
    }
    assert!(folder.path().join("file").is_file());
}
