use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

/// Returns the place of a path, as a path of the process.
fn place(base: &fs::File, path: &str, follow: bool) -> Result<PathBuf, Errno> {
    let place = locate(base.as_fd(), path.as_bytes(), Follow::look(follow))?;
    let parent = fs::read_link(format!("/proc/self/fd/{}", place.parent.as_raw_fd())).unwrap();
    Ok(parent.join(place.name))
}

/// `locate` follows links to any place, at the end of a path only with `follow`. The last name need not exist.
#[test]
fn links_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let at = |path: &str| root.join(path);
    fs::create_dir_all(at("real/deep")).unwrap();
    fs::create_dir(at("app")).unwrap();
    fs::write(at("real/file"), "").unwrap();
    for (path, target) in [
        ("app/absolute", at("real/file")),
        ("app/folder", at("real")),
        ("app/up", "../real/file".into()),
        ("app/chain", "folder/back".into()),
        ("real/back", "../app/up".into()),
        ("app/dangling", at("real/new")),
        ("app/loop", "loop".into()),
        ("app/climbs", "../../../../../../../../../../../../proc".into()),
    ] {
        symlink(target, at(path)).unwrap();
    }
    let app = fs::File::open(at("app")).unwrap();
    for path in ["absolute", "up", "chain", "folder/file", "folder/deep/../file"] {
        assert_eq!(place(&app, path, true), Ok(at("real/file")), "{path}");
    }
    assert_eq!(place(&app, "dangling", true), Ok(at("real/new")));
    assert_eq!(place(&app, "folder/new", true), Ok(at("real/new")));
    assert_eq!(place(&app, "folder/deep/..", true), Ok(at("real/.")));
    assert_eq!(place(&app, "folder/", false), Ok(at("real/")));
    assert_eq!(place(&app, ".", true), Ok(at("app/.")));
    assert_eq!(place(&app, "climbs", true), Ok("/proc".into()));
    for path in ["absolute", "up", "dangling", "loop"] {
        assert_eq!(place(&app, path, false), Ok(at("app").join(path)), "{path}");
    }
    for path in ["../real/file", "folder/../../real", "/etc/passwd", ".."] {
        assert_eq!(place(&app, path, true), Err(Errno::PERM), "{path}");
    }
    let start = fs::File::open("/").unwrap();
    assert_eq!(place(&start, "/proc/../etc/passwd", true), Ok("/etc/passwd".into()));
    assert_eq!(place(&start, "../etc/passwd", true), Ok("/etc/passwd".into()));
    assert_eq!(place(&app, "loop", true), Err(Errno::LOOP));
    assert_eq!(place(&app, "loop/x", true), Err(Errno::LOOP));
    assert_eq!(place(&app, "absolute/x", true), Err(Errno::NOTDIR));
    assert_eq!(place(&app, "missing/x", true), Err(Errno::NOENT));
    assert_eq!(place(&app, "", true), Err(Errno::NOENT));
}

/// `locate` refuses a magic link, at the end or on the way, and follows the other links of `/proc`.
#[test]
fn magic_links_are_refused() {
    let root = fs::File::open("/").unwrap();
    for path in ["proc/self/exe", "proc/self/root/etc", "proc/self/fd/0", "proc/self/cwd"] {
        assert_eq!(place(&root, path, true), Err(Errno::LOOP), "{path}");
    }
    let own = PathBuf::from(format!("/proc/{}", std::process::id()));
    assert_eq!(place(&root, "proc/self/status", true), Ok(own.join("status")));
    assert_eq!(place(&root, "proc/mounts", true), Ok(own.join("mounts")));
    assert_eq!(place(&root, "proc/self", true), Ok(own));
}

/// A guest has all of the root only if its one folder is the root.
#[test]
fn whole_roots() {
    let preopen = |host: &str, guest: &str| Preopen { host: host.into(), guest: guest.to_owned(), read_only: true };
    assert!(has_root(&[preopen("/", "/")]));
    assert!(!has_root(&[preopen("/data", "/data")]) && !has_root(&[preopen("/data", "/")]) && !has_root(&[]));
    assert!(!has_root(&[preopen("/", "/"), preopen("/data", "/x")]));
}

/// `locate_beneath` follows links that stay in the folder, at the end of a path too.
#[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer"))]
#[test]
fn links_stay_beneath() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let at = |path: &str| root.join(path);
    fs::create_dir_all(at("given/deep/deeper")).unwrap();
    fs::write(at("given/file"), "").unwrap();
    fs::write(at("outside"), "").unwrap();
    for (path, target) in [
        ("given/deep/up", "../file"),
        ("given/deep/deeper/chain", "../up"),
        ("given/folder", "deep/deeper"),
        ("given/deep/out", "../../outside"),
        ("given/again", "folder/../../../outside"),
        ("given/loop", "loop"),
        ("given/dangling", "deep/new"),
    ] {
        symlink(target, at(path)).unwrap();
    }
    symlink(at("given/file"), at("given/absolute")).unwrap();
    let given = fs::File::open(at("given")).unwrap();
    let place = |path: &str, follow| {
        let place = locate_beneath(given.as_fd(), path.as_bytes(), Follow::look(follow))?;
        let parent = fs::read_link(format!("/proc/self/fd/{}", place.parent.as_raw_fd())).unwrap();
        Ok(parent.join(place.name))
    };
    for path in ["file", "deep/up", "deep/deeper/chain", "folder/chain", "folder/../up", "deep/../file"] {
        assert_eq!(place(path, true), Ok(at("given/file")), "{path}");
    }
    assert_eq!(place("dangling", true), Ok(at("given/deep/new")));
    assert_eq!(place("deep/out", false), Ok(at("given/deep/out")));
    for follow in [true, false] {
        assert_eq!(place("folder/", follow), Ok(at("given/deep/deeper/.")));
        assert_eq!(place("missing/", follow), Err(Errno::NOENT));
        assert_eq!(place("file/", follow), Err(Errno::NOTDIR));
        assert_eq!(place("deep/out/", follow), Err(Errno::PERM));
    }
    let own = locate_beneath(given.as_fd(), b"folder/", Follow::Never).unwrap();
    assert_eq!(own.name, "folder/");
    // A name that becomes a link between two calls leads nowhere.
    symlink("..", at("given/deep/deeper/swapped")).unwrap();
    let swapped = Place { parent: fs::File::open(at("given/deep/deeper")).unwrap().into(), name: "swapped/".into() };
    assert_eq!(entered(&swapped).unwrap_err(), Errno::NOTDIR);
    for path in ["deep/out", "again", "absolute", "..", "../outside", "/etc/passwd", "deep/../../outside"] {
        assert_eq!(place(path, true), Err(Errno::PERM), "{path}");
    }
    assert_eq!(place("loop", true), Err(Errno::LOOP));
    assert_eq!(place("file/x", true), Err(Errno::NOTDIR));
    assert_eq!(place("", true), Err(Errno::NOENT));
}
