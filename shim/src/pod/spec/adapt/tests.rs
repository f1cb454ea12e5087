use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A working directory exists certainly if no mount can hide it, or if it is a mount itself.
#[test]
fn working_directories() {
    let root = std::env::temp_dir().join(format!("prewasi-adapt-{}", std::process::id()));
    fs::create_dir_all(root.join("a/b")).unwrap();
    symlink("/a", root.join("link")).unwrap();
    let there = |cwd: &str, mounts: &[&str]| {
        let mounts: Vec<_> = mounts.iter().map(|path| serde_json::json!({ "destination": path })).collect();
        let process = serde_json::json!({ "cwd": cwd, "user": { "uid": 0, "gid": 0 } });
        let spec = serde_json::json!({ "ociVersion": "1.1.0", "process": process, "mounts": mounts });
        is_there(&serde_json::from_value(spec).unwrap(), &root)
    };
    assert!(there("/", &["/proc"]) && there("/a/b", &["/a/b/c", "/a2"]) && there("/new", &["/new"]));
    assert!(!there("/new", &[]) && !there("/a/b", &["/a"]) && !there("/a/b", &["/link"]) && !there("/link/b", &[]));
    assert!(!there("/a/b", &["/a/b", "/a"]), "the second hides the first");
    fs::remove_dir_all(root).unwrap();
}
