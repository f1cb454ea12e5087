//! Folders that a guest cannot change, and names that WAMR does not take.

use std::fs;

use tempfile::{NamedTempFile, TempDir};

use crate::common::{artifact, run, trials};
use crate::shared::folders::{lister, root};
use crate::shared::modules::WRITE;

trials![colons_are_refused, folder_can_be_read_only, read_only_is_inherited, read_only_comes_before_the_guest];

/// WAMR takes the two names of a folder as one text, and no name may be read as part of the other.
fn colons_are_refused() {
    let root = root();
    let path = root.path().to_str().unwrap();
    for name in ["/a::/etc", "/a:"] {
        let ended = run(&lister(), &["--dir", path, name]);
        assert_eq!(ended.code, Some(126), "{name}");
        assert!(ended.stderr.contains("colon"), "{}", ended.stderr);
    }
    std::fs::create_dir(root.path().join("b::c")).unwrap();
    let ended = run(&lister(), &["--dir", &format!("{path}/b::c"), "/d:e"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "/d:e\n"), "{}", ended.stderr);
    assert!(root.path().join("b::c/file").is_file());
}

/// Does with descriptor 3, in which there are `old` and `folder/old`, all that changes something, and with the folder in
/// it, which it opens with all rights. Exits with the number of what succeeded, after it has read `old` to stdout.
fn changer() -> NamedTempFile {
    // Each row: a call that changes something in the folder `$fd`.
    let changes = [
        "$open (local.get $fd) (i32.const 0) (i32.const 100) (i32.const 3) (i32.const 1) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 400)",
        "$open (local.get $fd) (i32.const 0) (i32.const 110) (i32.const 3) (i32.const 8) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 400)",
        "$open (local.get $fd) (i32.const 0) (i32.const 110) (i32.const 3) (i32.const 0) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 400)",
        "$open (local.get $fd) (i32.const 0) (i32.const 110) (i32.const 3) (i32.const 0) (i64.const 0x400000) (i64.const 0) (i32.const 0) (i32.const 400)",
        "$mkdir (local.get $fd) (i32.const 100) (i32.const 3)",
        "$link (local.get $fd) (i32.const 0) (i32.const 110) (i32.const 3) (local.get $fd) (i32.const 100) (i32.const 3)",
        "$symlink (i32.const 110) (i32.const 3) (local.get $fd) (i32.const 100) (i32.const 3)",
        "$times (local.get $fd) (i32.const 0) (i32.const 110) (i32.const 3) (i64.const 0) (i64.const 0) (i32.const 5)",
        "$rename (local.get $fd) (i32.const 110) (i32.const 3) (local.get $fd) (i32.const 100) (i32.const 3)",
        "$unlink (local.get $fd) (i32.const 110) (i32.const 3)",
        "$rmdir (local.get $fd) (i32.const 130) (i32.const 5)",
    ];
    let changes: String = changes
        .iter()
        .map(|change| {
            format!("(if (i32.eqz (call {change})) (then (local.set $done (i32.add (local.get $done) (i32.const 1)))))")
        })
        .collect();
    artifact(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_remove_directory" (func $rmdir (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_filestat_set_times"
                (func $times (param i32 i32 i32 i32 i64 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_filestat_set_times"
                (func $fd_times (param i32 i64 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $fd_size (param i32 i64) (result i32)))
            (import "wasi_snapshot_preview1" "fd_allocate" (func $fd_allocate (param i32 i64 i64) (result i32)))
            (import "wasi_snapshot_preview1" "fd_fdstat_set_rights" (func $rights (param i32 i64 i64) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            {WRITE}
            (memory (export "memory") 1)
            (data (i32.const 100) "new") (data (i32.const 110) "old") (data (i32.const 120) "folder") (data (i32.const 130) "empty")
            (func $count (param i32) (result i32) (i32.eqz (local.get 0)))
            (func $change (param $fd i32) (result i32) (local $done i32) (local $file i32)
                ;; Rights that were given up do not come back.
                (drop (call $rights (local.get $fd) (i64.const 0xfffffff) (i64.const 0xfffffff)))
                ;; For reading, with all rights that do not mean writing: what is opened so can be read, and not changed.
                (if (call $open (local.get $fd) (i32.const 0) (i32.const 110) (i32.const 3) (i32.const 0)
                        (i64.const 0xaa000be) (i64.const 0xaa000be) (i32.const 0) (i32.const 404)) (then unreachable))
                (local.set $file (i32.load (i32.const 404)))
                (i32.store (i32.const 0) (i32.const 1000))
                (i32.store (i32.const 4) (i32.const 4))
                (if (call $fd_read (local.get $file) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
                (call $write (i32.const 1) (i32.const 1000) (i32.load (i32.const 8)))
                (local.set $done (i32.add
                    (i32.add
                        (call $count (call $fd_times (local.get $file) (i64.const 0) (i64.const 0) (i32.const 5)))
                        (call $count (call $fd_size (local.get $file) (i64.const 0))))
                    (call $count (call $fd_allocate (local.get $file) (i64.const 0) (i64.const 100)))))
                {changes}
                (local.get $done))
            (func (export "_start") (local $done i32)
                (local.set $done (call $change (i32.const 3)))
                (call $exit (local.get $done)))
            (func (export "below")
                (if (call $open (i32.const 3) (i32.const 0) (i32.const 120) (i32.const 6) (i32.const 2)
                        (i64.const 0x7fffebe) (i64.const 0xfffffff) (i32.const 0) (i32.const 408)) (then unreachable))
                (call $exit (call $change (i32.load (i32.const 408)))))
            (func (export "write_below")
                (if (call $open (i32.const 3) (i32.const 0) (i32.const 120) (i32.const 6) (i32.const 2)
                        (i64.const 0x6bfbe9e) (i64.const 0xbffffff) (i32.const 0) (i32.const 408)) (then unreachable))
                (call $exit (call $change (i32.load (i32.const 408))))))"#
    ))
}

fn filled() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("folder/empty")).unwrap();
    fs::create_dir(root.path().join("empty")).unwrap();
    for file in ["old", "folder/old"] {
        fs::write(root.path().join(file), "text").unwrap();
    }
    root
}

/// Lists what is below a folder: paths, lengths and times of the last change of contents.
fn listed(root: &std::path::Path) -> Vec<String> {
    let mut folders = vec![root.to_path_buf()];
    let mut list = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let data = fs::symlink_metadata(&path).unwrap();
            list.push(format!("{} {} {:?}", path.display(), data.len(), data.modified().unwrap()));
            if data.is_dir() {
                folders.push(path);
            }
        }
    }
    list.sort();
    list
}

/// In a read-only folder files are read, and nothing is changed in any way; the same guest changes all in one that is not.
fn folder_can_be_read_only() {
    let root = filled();
    let path = root.path().to_str().unwrap();
    let before = listed(root.path());
    let ended = run(&changer(), &["--read-only", path, "/"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "text"), "{}", ended.stderr);
    assert_eq!(listed(root.path()), before);
    let ended = run(&changer(), &["--dir", path, "/"]);
    assert!(ended.code > Some(5), "{ended:?}");
    assert_ne!(listed(root.path()), before);
}

/// The same holds for a folder that the guest opens in a read-only one, and for the working directory in it.
fn read_only_is_inherited() {
    let root = filled();
    let path = root.path().to_str().unwrap();
    let before = listed(root.path());
    for options in [
        &["--read-only", path, "/", "--function", "below"][..],
        &["--read-only", path, "/", "--function", "write_below"],
        &["--read-only", path, "/", "--cwd", "/folder"],
    ] {
        let ended = run(&changer(), options);
        assert_eq!(listed(root.path()), before, "{options:?}");
        // To open a folder for writing is refused right away.
        let refused = ended.code == Some(134) && ended.stderr.contains("unreachable");
        assert!(refused || (ended.code, ended.stdout.as_str()) == (Some(0), "text"), "{options:?}: {ended:?}");
    }
    let ended = run(&changer(), &["--read-only", path, "/", "--function", "write_below"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "text"), "{}", ended.stderr);
}

/// A guest's `_initialize` finds a folder read-only already; a start function would not, so a module with one is refused.
fn read_only_comes_before_the_guest() {
    let text = |more: &str| {
        format!(
            r#"(module
                (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
                (memory (export "memory") 1)
                (data (i32.const 100) "new")
                (func $make (export "_initialize")
                    (drop (call $mkdir (i32.const 3) (i32.const 100) (i32.const 3))))
                (func (export "_start"))
                (func (export "work"))
                {more})"#
        )
    };
    let root = root();
    let path = root.path().to_str().unwrap();
    let before = listed(root.path());
    assert_eq!(run(&artifact(&text("")), &["--read-only", path, "/", "--function", "work"]).code, Some(0));
    let ended = run(&artifact(&text("(start $make)")), &["--read-only", path, "/"]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("start function"), "{}", ended.stderr);
    assert_eq!(listed(root.path()), before);
    assert_eq!(run(&artifact(&text("(start $make)")), &["--dir", path, "/"]).code, Some(0));
    assert!(root.path().join("new").is_dir());
}
