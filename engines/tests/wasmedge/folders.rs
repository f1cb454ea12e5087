//! Folders that WasmEdge keeps a guest from changing.

use std::fs;

use crate::common::{artifact, run, trials};
use crate::shared::folders::{lister, root};

trials![names_have_no_slash, nothing_in_a_read_only_folder_changes, files_are_read, names_have_no_colon];

/// The working directory comes first, and names begin with no slash, which makes no difference to a C library. What is
/// written is there when the guest has ended, even in a forked process.
fn names_have_no_slash() {
    let root = root();
    for (cwd, file, names) in [("/", "file", "data\n"), ("/data/work/deep", "work/deep/file", ".\ndata\n")] {
        let ended = run(&lister(), &["--forked", "--cwd", cwd, "--dir", root.path().to_str().unwrap(), "/data"]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), names), "{}", ended.stderr);
        assert_eq!(fs::read_to_string(root.path().join(file)).unwrap(), "file");
    }
}

/// Neither directly nor by way of a folder that was opened once more, with all rights that there are.
fn nothing_in_a_read_only_folder_changes() {
    let module = artifact(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_filestat_set_times"
                (func $times (param i32 i32 i32 i32 i64 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_filestat_set_times" (func $set (param i32 i64 i64 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 100) "newfile.folder")
            (func $none (param i32) (if (i32.eqz (local.get 0)) (then unreachable)))
            (func $try (param $fd i32)
                (call $none (call $mkdir (local.get $fd) (i32.const 100) (i32.const 3)))
                (call $none (call $unlink (local.get $fd) (i32.const 103) (i32.const 4)))
                (call $none (call $rename (local.get $fd) (i32.const 103) (i32.const 4)
                    (local.get $fd) (i32.const 100) (i32.const 3)))
                (call $none (call $symlink (i32.const 103) (i32.const 4)
                    (local.get $fd) (i32.const 100) (i32.const 3)))
                (call $none (call $link (local.get $fd) (i32.const 0) (i32.const 103) (i32.const 4)
                    (local.get $fd) (i32.const 100) (i32.const 3)))
                (call $none (call $times (local.get $fd) (i32.const 0) (i32.const 103) (i32.const 4)
                    (i64.const 1) (i64.const 1) (i32.const 5)))
                (call $none (call $set (local.get $fd) (i64.const 1) (i64.const 1) (i32.const 5)))
                (call $none (call $open (local.get $fd) (i32.const 1) (i32.const 100) (i32.const 3) (i32.const 1)
                    (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 400)))
                (call $none (call $open (local.get $fd) (i32.const 1) (i32.const 103) (i32.const 4) (i32.const 8)
                    (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 400)))
                (call $none (call $open (local.get $fd) (i32.const 1) (i32.const 103) (i32.const 4) (i32.const 0)
                    (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 400))))
            (func $again (param $rights i64) (param $name i32) (param $length i32)
                (if (i32.eqz (call $open (i32.const 3) (i32.const 1) (local.get $name) (local.get $length) (i32.const 2)
                        (local.get $rights) (local.get $rights) (i32.const 0) (i32.const 500)))
                    (then (call $try (i32.load (i32.const 500))))))
            (func (export "_start") (local $right i64)
                (call $try (i32.const 3))
                (local.set $right (i64.const 1))
                (loop $next
                    (call $again (local.get $right) (i32.const 107) (i32.const 1))
                    (call $again (local.get $right) (i32.const 108) (i32.const 6))
                    (br_if $next (i64.lt_u
                        (local.tee $right (i64.shl (local.get $right) (i64.const 1))) (i64.const 0x20000000))))))"#,
    );
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    for file in ["file", "folder/file"] {
        fs::write(folder.path().join(file), "content").unwrap();
    }
    let state = || {
        ["", "file", "folder", "folder/file"].map(|path| {
            let metadata = fs::metadata(folder.path().join(path)).unwrap();
            (metadata.modified().unwrap(), metadata.is_file().then_some(metadata.len()))
        })
    };
    let before = state();
    let ended = run(&module, &["--read-only", folder.path().to_str().unwrap(), "/"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert_eq!(state(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// A file is opened for reading by a guest that asks for all rights that there are but those to write, and of a folder that
/// cannot be changed, too.
fn files_are_read() {
    let module = artifact(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 100) "file")
            (func (export "_start")
                (if (call $open (i32.const 3) (i32.const 1) (i32.const 100) (i32.const 4) (i32.const 0)
                        (i64.const 0xfbffebe) (i64.const 0xfffffff) (i32.const 0) (i32.const 400)) (then unreachable))))"#,
    );
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "content").unwrap();
    for option in ["--dir", "--read-only"] {
        let ended = run(&module, &[option, folder.path().to_str().unwrap(), "/data"]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{option}");
    }
}

/// A colon in a folder's name, which WasmEdge would take for its end, is refused.
fn names_have_no_colon() {
    let module = artifact(r#"(module (func (export "_start")))"#);
    let folder = tempfile::tempdir().unwrap();
    let ended = run(&module, &["--dir", folder.path().to_str().unwrap(), "/a:b"]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("colon"), "{}", ended.stderr);
}
