//! Preopened folders and the working directory, as a guest sees them.

use std::fs;

use tempfile::{NamedTempFile, TempDir};

use crate::common::{artifact, run, trials};
use crate::shared::modules::WRITE;

trials![
    root_is_a_folder,
    working_directory_is_the_last_of_the_short_names,
    files_are_written,
    files_are_read,
    folders_are_one_tree,
    missing_folder_is_named,
    guest_stays_inside
];

/// Prints the names of all preopened folders, then creates `file` in the second one (or, as `in_5`, in the third) and
/// writes to it.
fn lister() -> NamedTempFile {
    artifact(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func $name (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            {WRITE}
            (memory (export "memory") 1)
            (data (i32.const 100) "\nfile../outside")
            (func $list (param $in i32) (local $fd i32)
                (local.set $fd (i32.const 3))
                (loop $next
                    (if (i32.eqz (call $prestat (local.get $fd) (i32.const 200))) (then
                        (drop (call $name (local.get $fd) (i32.const 300) (i32.load (i32.const 204))))
                        (call $write (i32.const 1) (i32.const 300) (i32.load (i32.const 204)))
                        (call $write (i32.const 1) (i32.const 100) (i32.const 1))
                        (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
                        (br $next))))
                (if (call $open (local.get $in) (i32.const 0) (i32.const 101) (i32.const 4) (i32.const 1)
                        (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 400)) (then unreachable))
                (call $write (i32.load (i32.const 400)) (i32.const 101) (i32.const 4)))
            (func (export "_start") (call $list (i32.const 4)))
            (func (export "in_5") (call $list (i32.const 5)))
            (func (export "escape")
                (if (call $open (i32.const 4) (i32.const 0) (i32.const 105) (i32.const 10) (i32.const 1)
                        (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 400)) (then unreachable))))"#
    ))
}

fn root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for folder in ["etc", "work/deep"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    root
}

/// With the root as working directory, the guest gets the folders as given, behind wasmer's own root.
fn root_is_a_folder() {
    let root = root();
    let ended = run(&lister(), &["--dir", root.path().to_str().unwrap(), "/"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "/\n/\n"), "{}", ended.stderr);
    assert!(root.path().join("file").is_file());
}

/// Another working directory comes as `.` behind the root, and the folders in the root follow: a C library takes `.` for
/// a relative path, and the longest name for an absolute one.
fn working_directory_is_the_last_of_the_short_names() {
    let root = root();
    let options = ["--dir", root.path().to_str().unwrap(), "/", "--cwd", "/work/deep", "--function"];
    let ended = run(&lister(), &[&options[..], &["in_5"]].concat());
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "/\n/\n.\n/etc\n/work\n"), "{}", ended.stderr);
    assert!(root.path().join("work/deep/file").is_file());
}

/// What a guest writes to a file is there when it has ended, even in a forked process.
fn files_are_written() {
    let root = root();
    let options = ["--forked", "--function", "in_5", "--dir", root.path().to_str().unwrap(), "/data"];
    let ended = run(&lister(), &options);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "/\n/\n/data\n"), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(root.path().join("file")).unwrap(), "file");
}

/// Prints what is in a file, opened by `path` from descriptor `fd`.
fn reader(fd: u32, path: &str) -> NamedTempFile {
    artifact(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            {WRITE}
            (memory (export "memory") 1)
            (data (i32.const 100) "{path}")
            (func (export "_start")
                (if (call $open (i32.const {fd}) (i32.const 1) (i32.const 100) (i32.const {length}) (i32.const 0)
                        (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 400)) (then unreachable))
                (i32.store (i32.const 0) (i32.const 1000))
                (i32.store (i32.const 4) (i32.const 100))
                (if (call $read (i32.load (i32.const 400)) (i32.const 0) (i32.const 1) (i32.const 8))
                    (then unreachable))
                (call $write (i32.const 1) (i32.const 1000) (i32.load (i32.const 8)))))"#,
        length = path.len()
    ))
}

/// A guest reads what is in a folder, be it read-only or not.
fn files_are_read() {
    let root = root();
    fs::write(root.path().join("etc/name"), "value").unwrap();
    for option in ["--dir", "--read-only"] {
        let ended = run(&reader(5, "etc/name"), &[option, root.path().to_str().unwrap(), "/data"]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "value"), "{option}: {}", ended.stderr);
    }
}

/// From the root, a guest reaches every folder, also one that lies in another, and follows links within one.
fn folders_are_one_tree() {
    let (root, data) = (root(), root());
    fs::create_dir(root.path().join("data")).unwrap();
    fs::write(data.path().join("etc/name"), "value").unwrap();
    std::os::unix::fs::symlink("/etc", data.path().join("absolute")).unwrap();
    std::os::unix::fs::symlink("etc/name", data.path().join("relative")).unwrap();
    let options =
        ["--dir", root.path().to_str().unwrap(), "/", "--read-only", data.path().to_str().unwrap(), "/data/deep"];
    for path in ["data/deep/etc/name", "data/deep/relative", "data/deep/absolute/name"] {
        for fd in [3, 4] {
            let ended = run(&reader(fd, path), &options);
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "value"), "{fd} {path}: {}", ended.stderr);
        }
    }
}

/// A folder that does not exist keeps the guest from running, and is named.
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

/// A path that leads out of a folder is refused.
fn guest_stays_inside() {
    let root = root();
    let inside = root.path().join("work");
    let ended = run(&lister(), &["--function", "escape", "--dir", inside.to_str().unwrap(), "/"]);
    assert_eq!(ended.code, Some(134), "{ended:?}");
    assert!(!root.path().join("outside").exists());
}
