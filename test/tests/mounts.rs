//! The mounts of a container and their attributes: as with runc, for native programs and for wasm.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case};
use serde_json::{Value, json};

use crate::busybox;
use crate::confinement::{OURS, RUNC, running, same, wasm};

mod cgroups;
mod propagation;
mod reasons;
mod users;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case!(missing_working_directory_is_made, needs Runc Busybox),
        case!(missing_working_directory_of_a_process_is_an_error, needs Runc Busybox),
        case!(attributes_are_those_that_the_options_name, needs Runc Busybox),
        case!(read_only_mounts_are_read_only_with_all_below, needs Busybox),
    ];
    cases.extend(cgroups::cases());
    cases.extend(propagation::cases());
    cases.extend(reasons::cases());
    cases.extend(users::cases());
    cases
}

/// A file system in memory, mounted on this machine; dropping it takes it away with all that is mounted in it.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts it on a folder, which is made. How it spreads says `flags`.
    pub(crate) fn new(path: PathBuf, flags: libc::c_ulong) -> Self {
        fs::create_dir_all(&path).expect("the folder is ours");
        mount(Some("tmpfs"), &path, 0);
        let mounted = Self(path);
        mount(None, &mounted.0, flags);
        mounted
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let path = c_string(&self.0);
        // SAFETY: the kernel reads one string.
        while unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } == 0 {}
    }
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).expect("a plain path")
}

fn mount(kind: Option<&str>, path: &Path, flags: libc::c_ulong) {
    let kind = kind.map(|kind| CString::new(kind).expect("a plain word"));
    let kind = kind.as_ref().map_or(std::ptr::null(), |kind| kind.as_ptr());
    let path = c_string(path);
    // SAFETY: the kernel reads strings, and no data.
    let result = unsafe { libc::mount(kind, path.as_ptr(), kind, flags, std::ptr::null()) };
    assert_eq!(result, 0, "cannot mount on {path:?}: {}", std::io::Error::last_os_error());
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

/// Adds mounts to those that the tests' containers have anyway.
fn with_mounts(mounts: &[Value]) -> Value {
    let mut all = prewasi_test::default_mounts();
    all.extend_from_slice(mounts);
    json!({ "mounts": all })
}

/// Returns path, mode and owner of a container's working directory.
fn directory(container: &Container) -> (String, u32, u32, u32) {
    let path = PathBuf::from(format!("/proc/{}/cwd", container.pid()));
    let metadata = fs::metadata(&path).expect("it runs");
    let name = fs::read_link(&path).expect("it runs").display().to_string();
    (name, metadata.permissions().mode(), metadata.uid(), metadata.gid())
}

/// A working directory that the image lacks is made, in the root filesystem or on a mount, with any mount of the root. It belongs to root,
/// for any user of the process.
async fn missing_working_directory_is_made(namespace: Namespace) {
    let volume = namespace.folder().join("volume");
    fs::create_dir(&volume).expect("the folder is ours");
    let user = json!({ "user": { "uid": 1000, "gid": 1000 } });
    for (cwd, more) in [
        ("/work/deep/er", json!({})),
        ("/work", json!({ "process": user.clone() })),
        ("/read/only", json!({ "root": { "readonly": true } })),
        ("/run/in/memory", json!({ "process": user })),
        ("/volume/x/../y", with_mounts(&[bind(&volume, "/volume", &["rbind", "rw"])])),
        ("/bin/new", json!({})),
    ] {
        let change = json!([{ "process": { "cwd": cwd } }, more]);
        let (name, mode, uid, gid) = same(&namespace, change, directory).await;
        assert_eq!((name.replace("x/../", ""), mode, uid, gid), (cwd.replace("x/../", ""), 0o40755, 0, 0));
        // The next one must make it anew.
        let _ = fs::remove_dir_all(volume.join("y"));
        let _ = fs::remove_dir_all(volume.join("x"));
    }
}

/// A process that is executed in a directory which is not there fails with its name, as with runc: only a container's own is made.
async fn missing_working_directory_of_a_process_is_an_error(namespace: Namespace) {
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    for (image, runtime) in [(&native, RUNC), (&native, OURS), (&wasm, OURS)] {
        let container = running(&namespace, image, runtime, &json!({})).await;
        let args: &[&str] = if image.name == wasm.name { &["/demo.wasm", "echo"] } else { &["/bin/busybox", "true"] };
        let mut process = container.exec(args).change(json!({ "cwd": "/nowhere" })).create().await;
        let error = process.try_start().await.expect_err("there is no such directory");
        assert!(error.message().contains("/nowhere"), "{runtime}: {error}");
        let said = error.message().to_lowercase();
        assert!(said.contains("no such file or directory"), "{runtime}: {error}");
        assert!(!Path::new(&format!("/proc/{}/root/nowhere", container.pid())).exists());
        container.end().await;
    }
}

/// Reads attributes of the mounts below `/volumes`.
fn attributes(container: &Container) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).expect("it runs");
    let lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let volumes = lines.filter(|fields| fields[4].starts_with("/volumes"));
    volumes.map(|fields| (fields[4].to_owned(), fields[5].to_owned())).collect()
}

/// A mount has the attributes of its source, until its options name one: then it has those alone. When accesses are noted stays as it is.
async fn attributes_are_those_that_the_options_name(namespace: Namespace) {
    let source = Mounted::new(namespace.folder().join("source"), libc::MS_PRIVATE);
    mount(None, source.path(), libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NOATIME);
    let options =
        [&[][..], &["rw"], &["ro"], &["nodev"], &["noexec", "exec"], &["relatime"], &["nodiratime"], &["strictatime"]];
    let mounts = options.iter().enumerate().map(|(number, options)| {
        bind(source.path(), &format!("/volumes/{number}"), &[&["rbind", "rprivate"], *options].concat())
    });
    let seen = same(&namespace, with_mounts(&mounts.collect::<Vec<_>>()), attributes).await;
    assert_eq!(seen["/volumes/0"], "rw,nosuid,noexec,noatime");
    assert_eq!(seen["/volumes/2"], "ro,noatime");
    assert_eq!(seen["/volumes/5"], "rw,relatime");
}

/// With `rro` a mount and all mounts below it are read-only; with `ro` only the mount itself is.
async fn read_only_mounts_are_read_only_with_all_below(namespace: Namespace) {
    let above = Mounted::new(namespace.folder().join("above"), libc::MS_PRIVATE);
    let _below = Mounted::new(above.path().join("below"), libc::MS_PRIVATE);
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    for (option, expected) in [("rro", ["", ""]), ("ro", ["", "below"]), ("rw", ["above", "below"])] {
        let change = with_mounts(&[bind(above.path(), "/volume", &["rbind", option])]);
        for image in [&wasm, &native] {
            let container = running(&namespace, image, OURS, &change).await;
            for (path, wanted) in [("/volume/file", expected[0]), ("/volume/below/file", expected[1])] {
                let shell = format!("echo x > {path}");
                let args: &[&str] = if image.name == wasm.name {
                    &["/demo.wasm", "write", path, "x"]
                } else {
                    &["/bin/busybox", "sh", "-c", &shell]
                };
                let exited = container.exec(args).run().await;
                assert_eq!(exited.code == 0, !wanted.is_empty(), "{option} {path}: {exited:?}");
                if wanted.is_empty() && image.name == native.name {
                    assert!(exited.stderr.contains("Read-only file system"), "{exited:?}");
                }
            }
            container.end().await;
            let _ = fs::remove_file(above.path().join("file"));
            let _ = fs::remove_file(above.path().join("below/file"));
        }
    }
}
