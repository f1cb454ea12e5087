//! Folders, as a start function finds them.

use crate::common::{artifact, run, trials};
use crate::folders_of_wasi::listed;
use crate::shared::folders::root;

trials![read_only_comes_before_the_guest];

/// A guest's `_initialize` and its start function already find a read-only folder read-only.
fn read_only_comes_before_the_guest() {
    let text = |more: &str| {
        format!(
            r#"(module
                (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1)
                (data (i32.const 100) "new")
                (global $error (mut i32) (i32.const 99))
                (func $make (export "_initialize")
                    (global.set $error (call $mkdir (i32.const 3) (i32.const 100) (i32.const 3))))
                (func (export "_start") (call $exit (global.get $error)))
                (func (export "work") (call $exit (global.get $error)))
                {more})"#
        )
    };
    const ROFS: i32 = 69;
    let root = root();
    let path = root.path().to_str().unwrap();
    let before = listed(root.path());
    assert_eq!(run(&artifact(&text("")), &["--read-only", path, "/", "--function", "work"]).code, Some(ROFS));
    assert_eq!(run(&artifact(&text("(start $make)")), &["--read-only", path, "/"]).code, Some(ROFS));
    assert_eq!(listed(root.path()), before);
    assert_eq!(run(&artifact(&text("(start $make)")), &["--dir", path, "/"]).code, Some(0));
    assert!(root.path().join("new").is_dir());
}
