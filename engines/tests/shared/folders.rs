//! Preopened folders and the working directory, as a guest sees them.

use std::fs;

use tempfile::{NamedTempFile, TempDir};

use super::modules::WRITE;
use crate::common::{artifact, run, trials};

trials![
    root_is_descriptor_3,
    working_directory_is_descriptor_3,
    working_directory_may_lie_in_a_folder,
    files_are_written,
    missing_folder_is_named,
    guest_stays_inside
];

/// Prints the names of all preopened folders, then creates `file` in the first one and writes to it.
pub(crate) fn lister() -> NamedTempFile {
    artifact(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func $name (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            {WRITE}
            (memory (export "memory") 1)
            (data (i32.const 100) "\nfile../outside")
            (func (export "_start") (local $fd i32)
                (local.set $fd (i32.const 3))
                (loop $next
                    (if (i32.eqz (call $prestat (local.get $fd) (i32.const 200))) (then
                        (drop (call $name (local.get $fd) (i32.const 300) (i32.load (i32.const 204))))
                        (call $write (i32.const 1) (i32.const 300) (i32.load (i32.const 204)))
                        (call $write (i32.const 1) (i32.const 100) (i32.const 1))
                        (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
                        (br $next))))
                (if (call $open (i32.const 3) (i32.const 0) (i32.const 101) (i32.const 4) (i32.const 1)
                        (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 400)) (then unreachable))
                (call $write (i32.load (i32.const 400)) (i32.const 101) (i32.const 4)))
            (func (export "escape")
                (if (call $open (i32.const 3) (i32.const 0) (i32.const 105) (i32.const 10) (i32.const 1)
                        (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 400)) (then unreachable))))"#
    ))
}

/// Returns a guest that opens `file` in the folder of descriptor 3 with these flags and rights, and traps if it cannot.
pub(crate) fn opener(lookup_flags: u32, open_flags: u32, base: u64, inheriting: u64) -> NamedTempFile {
    artifact(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 100) "file")
            (func (export "_start")
                (if (call $open (i32.const 3) (i32.const {lookup_flags}) (i32.const 100) (i32.const 4)
                        (i32.const {open_flags}) (i64.const {base}) (i64.const {inheriting}) (i32.const 0)
                        (i32.const 400)) (then unreachable))))"#
    ))
}

pub(crate) fn root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for folder in ["etc", "work/deep"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    root
}

/// With the root as working directory, the guest gets the folders as given.
fn root_is_descriptor_3() {
    let root = root();
    let ended = run(&lister(), &["--dir", root.path().to_str().unwrap(), "/"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "/\n"), "{}", ended.stderr);
    assert!(root.path().join("file").is_file());
}

/// Another working directory comes first, named `.`, and the folders in the root follow.
fn working_directory_is_descriptor_3() {
    let root = root();
    let ended = run(&lister(), &["--dir", root.path().to_str().unwrap(), "/", "--cwd", "/work/deep"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ".\n/etc\n/work\n"), "{}", ended.stderr);
    assert!(root.path().join("work/deep/file").is_file());
}

/// So does a working directory in another folder than the root, which the guest keeps.
fn working_directory_may_lie_in_a_folder() {
    let root = root();
    let ended = run(&lister(), &["--dir", root.path().to_str().unwrap(), "/data", "--cwd", "/data/work/deep"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ".\n/data\n"), "{}", ended.stderr);
    assert!(root.path().join("work/deep/file").is_file());
}

/// A guest's writes to a file are there when the guest has ended, even in a forked process.
fn files_are_written() {
    let root = root();
    let ended = run(&lister(), &["--forked", "--dir", root.path().to_str().unwrap(), "/data"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "/data\n"), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(root.path().join("file")).unwrap(), "file");
}

/// A folder that does not exist keeps the guest from running, and the error names it.
fn missing_folder_is_named() {
    let root = root();
    for options in
        [["--dir", "/no/such", "/data"].as_slice(), &["--dir", root.path().to_str().unwrap(), "/", "--cwd", "/no"]]
    {
        let ended = run(&lister(), options);
        assert_eq!(ended.code, Some(126));
        assert!(
            ended.stderr.contains("cannot set up the guest: folder ") && ended.stderr.contains("/no"),
            "{}",
            ended.stderr
        );
    }
}

/// The engine refuses a path that leads out of a folder.
fn guest_stays_inside() {
    let root = root();
    let inside = root.path().join("work");
    let ended = run(&lister(), &["--function", "escape", "--dir", inside.to_str().unwrap(), "/"]);
    assert_eq!(ended.code, Some(134), "{ended:?}");
    assert!(!root.path().join("outside").exists());
}
