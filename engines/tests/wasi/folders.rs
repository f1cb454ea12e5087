//! Folders as a guest sees them, with the engines that use prewasi's own WASI.

use std::fs;

use tempfile::{NamedTempFile, TempDir};

use crate::common::{artifact, run, trials};
use crate::shared::folders::{lister, opener, root};
use crate::shared::modules::WRITE;

trials![
    names_are_as_given,
    links_stay_inside,
    folder_can_be_read_only,
    read_only_is_inherited,
    nothing_in_a_read_only_folder_changes,
    files_are_read,
];

/// A folder may have any name, and lie anywhere.
fn names_are_as_given() {
    let root = root();
    let path = root.path().to_str().unwrap();
    fs::create_dir(root.path().join("b::c")).unwrap();
    for name in ["/a:b", "/a::/etc", "d:", "data/x/", "/"] {
        let ended = run(&lister(), &["--dir", &format!("{path}/b::c"), name]);
        assert_eq!((ended.code, ended.stdout), (Some(0), format!("{name}\n")), "{}", ended.stderr);
    }
    assert!(root.path().join("b::c/file").is_file());
}

/// Returns a guest that opens `path` in the folder of descriptor 3, and prints the file. On failure it exits with the
/// error.
fn reader(path: &str) -> NamedTempFile {
    artifact(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            {WRITE}
            (memory (export "memory") 1)
            (data (i32.const 100) "{path}")
            (func (export "_start") (local $error i32)
                (local.set $error (call $open (i32.const 3) (i32.const 1) (i32.const 100) (i32.const {length})
                    (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 400)))
                (if (local.get $error) (then (call $exit (local.get $error))))
                (i32.store (i32.const 0) (i32.const 1000))
                (i32.store (i32.const 4) (i32.const 100))
                (if (call $read (i32.load (i32.const 400)) (i32.const 0) (i32.const 1) (i32.const 8))
                    (then unreachable))
                (call $write (i32.const 1) (i32.const 1000) (i32.load (i32.const 8)))))"#,
        length = path.len()
    ))
}

/// A guest with only some folders follows links within each. It follows none that leads out, absolute or relative.
fn links_stay_inside() {
    const PERM: i32 = 63;
    let (root, other) = (root(), root());
    fs::write(root.path().join("etc/name"), "value").unwrap();
    fs::write(other.path().join("name"), "secret").unwrap();
    let out = other.path().join("name");
    let climbs = format!("../../../../../../../..{}", out.display());
    for (link, target) in [
        ("relative", "etc/name"),
        ("work/up", "../etc/name"),
        ("work/deep/chain", "../up"),
        ("folder", "etc"),
        ("work/again", "../folder/name"),
        ("absolute", out.to_str().unwrap()),
        ("climbs", &climbs),
        ("work/out", &climbs),
        ("own", root.path().join("etc/name").to_str().unwrap()),
    ] {
        std::os::unix::fs::symlink(target, root.path().join(link)).unwrap();
    }
    let options = ["--dir", root.path().to_str().unwrap(), "/data"];
    for path in ["etc/name", "relative", "work/up", "work/deep/chain", "folder/name", "work/again", "work/../relative"]
    {
        let ended = run(&reader(path), &options);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "value"), "{path}: {}", ended.stderr);
    }
    for path in ["absolute", "climbs", "work/out", "own", "../x", "/etc/name", "work/../../x"] {
        assert_eq!(run(&reader(path), &options).code, Some(PERM), "{path}");
    }
}

/// Returns a guest that makes every kind of change in the folder of descriptor 3, which contains `old` and
/// `folder/old`. Two exports do the same in `folder`, which they open with all rights. The guest reads `old` to stdout
/// first. It exits with the number of changes that succeeded.
fn changer() -> NamedTempFile {
    // Each row: a call that changes something in the folder `$fd`.
    let changes = [
        "$open (local.get $fd) (i32.const 0) (i32.const 100) (i32.const 3) (i32.const 1) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 400)",
        "$open (local.get $fd) (i32.const 0) (i32.const 110) (i32.const 3) (i32.const 8) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 400)",
        "$open (local.get $fd) (i32.const 0) (i32.const 110) (i32.const 3) (i32.const 0) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 400)",
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

/// Lists all entries below a folder: paths, lengths and times of the last change of contents.
pub(crate) fn listed(root: &std::path::Path) -> Vec<String> {
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

/// In a read-only folder a guest reads files and changes nothing; the same guest makes all changes in a writable one.
fn folder_can_be_read_only() {
    let root = filled();
    let path = root.path().to_str().unwrap();
    let before = listed(root.path());
    let ended = run(&changer(), &["--read-only", path, "/"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "text"), "{}", ended.stderr);
    assert_eq!(listed(root.path()), before);
    let ended = run(&changer(), &["--dir", path, "/"]);
    assert_eq!(ended.code, Some(7), "{ended:?}");
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
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "text"), "{options:?}: {}", ended.stderr);
    }
}

/// Nothing changes, neither directly nor through a folder that the guest opens once more with all rights.
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
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 100) "newfile.folder")
            (global $opened (mut i32) (i32.const 0))
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
                    (then
                        (global.set $opened (i32.add (global.get $opened) (i32.const 1)))
                        (call $try (i32.load (i32.const 500))))))
            (func (export "_start") (local $right i64)
                (call $try (i32.const 3))
                (local.set $right (i64.const 1))
                (loop $next
                    (call $again (local.get $right) (i32.const 107) (i32.const 1))
                    (call $again (local.get $right) (i32.const 108) (i32.const 6))
                    (br_if $next (i64.lt_u
                        (local.tee $right (i64.shl (local.get $right) (i64.const 1))) (i64.const 0x20000000))))
                (call $exit (global.get $opened))))"#,
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
    // Each of the two folders opens with each of 29 rights.
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(58), ""));
    assert_eq!(state(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// A guest that asks for all rights except those to write opens a file for reading, in a read-only folder too.
fn files_are_read() {
    let module = opener(1, 0, 0x0fbf_febe, 0x0fff_ffff);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "content").unwrap();
    for option in ["--dir", "--read-only"] {
        let ended = run(&module, &[option, folder.path().to_str().unwrap(), "/data"]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{option}");
    }
}
