use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

fn folder(read_only: bool) -> (TempDir, Folder) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("inside")).unwrap();
    fs::write(root.path().join("file"), "text").unwrap();
    let opened = Folder::open(root.path(), read_only).unwrap();
    (root, opened)
}

fn options(write: bool) -> OpenOptionsConfig {
    OpenOptionsConfig { read: true, write, create_new: false, create: write, append: false, truncate: false }
}

/// Everything that changes something is refused in a read-only folder, and reading is not.
#[tokio::test]
async fn nothing_changes_in_a_read_only_folder() {
    let (_root, folder) = folder(true);
    let (file, other) = (Path::new("/file"), Path::new("/other"));
    let refused = Err(FsError::PermissionDenied);
    assert_eq!(folder.create_dir(other), refused);
    assert_eq!(folder.create_symlink(file, other), refused);
    assert_eq!(folder.hard_link(file, other), refused);
    assert_eq!(folder.remove_dir(Path::new("/inside")), refused);
    assert_eq!(folder.remove_file(file), refused);
    assert_eq!(folder.rename(file, other).await, refused);
    assert_eq!(FileOpener::open(&folder, file, &options(true)).map(drop), refused);
    let mut open = FileOpener::open(&folder, file, &options(false)).unwrap();
    assert_eq!(open.set_len(0), refused);
    assert_eq!(open.set_times(Some(0), None), refused);
    assert_eq!(open.unlink(), refused);
    assert_eq!(open.size(), 4);
}

/// What is changed in a folder that is not read-only is changed.
#[tokio::test]
async fn changes_are_made() {
    let (root, folder) = folder(false);
    folder.create_dir(Path::new("/new")).unwrap();
    folder.rename(Path::new("/file"), Path::new("/new/file")).await.unwrap();
    folder.hard_link(Path::new("/new/file"), Path::new("/inside/file")).unwrap();
    folder.create_symlink(Path::new("inside/file"), Path::new("/link")).unwrap();
    folder.remove_file(Path::new("/new/file")).unwrap();
    folder.remove_dir(Path::new("/new")).unwrap();
    assert_eq!(folder.readlink(Path::new("/link")).unwrap(), Path::new("inside/file"));
    assert!(folder.symlink_metadata(Path::new("/link")).unwrap().ft.symlink);
    assert_eq!(folder.metadata(Path::new("/link")).unwrap().len, 4);
    let names: Vec<_> = folder.read_dir(Path::new("/")).unwrap().map(|entry| entry.unwrap().path).collect();
    assert_eq!(names, [Path::new("/inside"), Path::new("/link")]);
    assert_eq!(fs::read_to_string(root.path().join("link")).unwrap(), "text");
}

/// No link and no `..` leads out of a folder.
#[test]
fn paths_stay_inside() {
    let (root, folder) = folder(false);
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "").unwrap();
    symlink(outside.path(), root.path().join("inside/out")).unwrap();
    symlink("../..", root.path().join("inside/up")).unwrap();
    for path in ["/inside/out/secret", "/inside/out", "/inside/up/etc", "/../etc"] {
        assert!(folder.metadata(Path::new(path)).is_err(), "{path}");
        assert!(FileOpener::open(&folder, Path::new(path), &options(true)).is_err(), "{path}");
    }
    assert!(folder.create_dir(Path::new("/inside/out/new")).is_err());
    assert!(!outside.path().join("new").exists());
}

/// Names become paths in one tree.
#[test]
fn names_are_normal() {
    for (name, path) in [("/", "/"), ("", "/"), (".", "/"), ("data/x/", "/data/x"), ("/a/../../b", "/b")] {
        assert_eq!(absolute(name), Path::new(path), "{name}");
    }
}
