//! What a guest may be denied: tables, changes to files.

use std::fs;

use crate::common::{artifact, run, trials};
use crate::shared::limits::growing;

trials![tables_count_too, folders_can_be_read_only];

/// Tables are of the same memory: one may grow by an eighth of what is left when it is made, 8 bytes for each element.
fn tables_count_too() {
    let module = artifact(&growing(0, 900));
    for (options, code) in [(&[][..], 3), (&["--memory", "200000"], 3), (&["--memory", "100000"], 1)] {
        assert_eq!(run(&module, options).code, Some(code), "{options:?}");
    }
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
