//! Attempts of an image, or of a container's description, against its node, in a harmless form. They use devices in an image, files of
//! other users, and cgroups of other containers. Each is refused as by runc, or more strictly where the test says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use prewasi_test::guests::{DEMO, DEMO_COMPONENT};
use prewasi_test::image::{self, Imported, Program, files};
use prewasi_test::manifest::{self, Blob};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case, eventually};
use serde_json::{Value, json};

use crate::busybox;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(devices_of_an_image_cannot_be_used, needs Runc Busybox),
        case!(devices_that_are_made_cannot_be_used, needs Runc Busybox),
        case!(devices_of_the_spec_can_be_used, needs Runc Busybox),
        case!(files_of_others_cannot_be_read, needs Runc Busybox),
        case!(own_memory_is_no_file),
        case!(containers_do_not_share_a_cgroup, needs Busybox),
        case!(cgroups_that_were_there_stay),
        case!(stale_folder_does_not_block_an_id),
        case!(removal_that_was_cut_off_is_finished),
        case!(links_in_the_place_of_folders_are_refused, needs Busybox),
        case!(containers_without_their_masks_are_refused, needs Busybox),
        case!(devices_are_no_programs),
        case!(environment_is_for_root_alone),
        case!(messages_are_plain_text),
        case!(exec_ids_are_no_names_of_containers, needs Busybox),
    ]
}

const OURS: &str = "io.containerd.wasmtime.v1";
const RUNC: &str = "io.containerd.runc.v2";
/// How long a removal may take that nobody waits for.
const LIMIT: Duration = Duration::from_secs(10);
/// A character device that every user may open, and no container: FUSE.
const FUSE: (u32, u32) = (10, 229);

/// Packs a device that everybody may read and write, as far as its mode is concerned.
fn device(path: &str, (major, minor): (u32, u32)) -> oci_tar_builder::Layer {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Char);
    header.set_device_major(major).expect("the number is small");
    header.set_device_minor(minor).expect("the number is small");
    header.set_mode(0o666);
    header.set_size(0);
    tar.append_data(&mut header, path.trim_start_matches('/'), std::io::empty()).expect("memory can be written");
    let bytes = tar.into_inner().expect("memory can be written");
    oci_tar_builder::Layer::from_bytes(oci_tar_builder::media_type::TAR, "device.tar", bytes).expect("it is a tar")
}

/// Imports an image with busybox, the demo program and a device `/fuse`; the default program is wasm.
fn with_device(namespace: &Namespace) -> Imported {
    let program = Program::guest(namespace, DEMO);
    let files = files(&[("/bin/busybox", &busybox::bytes(), 0o755), ("/demo.wasm", &program.bytes, 0o644)]);
    image::import(namespace, "device", |image| image.os("linux").layer(files).layer(device("/fuse", FUSE)))
}

/// Asserts that the device can be opened without privileges where nothing confines a process: else a refusal says nothing.
fn assert_device_is_there(namespace: &Namespace) {
    let node = namespace.folder().join("fuse");
    let script = format!(
        "mknod -m 666 {0} c {1} {2} && setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'exec 3<>{0}'",
        node.display(),
        FUSE.0,
        FUSE.1
    );
    let opened = Command::new("sh").args(["-c", &script]).status().expect("sh is there");
    fs::remove_file(&node).expect("it was made");
    assert!(opened.success(), "this node has no FUSE");
}

/// Another user, with sets of capabilities that are not named.
fn unprivileged() -> Value {
    json!({ "process": { "user": { "uid": 1000, "gid": 1000 }, "capabilities": null } })
}

/// A device that an image holds cannot be opened, by a wasm program, a native one, or a process that is executed later.
async fn devices_of_an_image_cannot_be_used(namespace: Namespace) {
    assert_device_is_there(&namespace);
    let image = with_device(&namespace);
    let native = ["/bin/busybox", "head", "-c", "1", "/fuse"];
    let wasm = ["/demo.wasm", "read", "/fuse"];
    for (runtime, args) in [(RUNC, &native[..]), (OURS, &native), (OURS, &wasm)] {
        for change in [unprivileged(), json!({})] {
            let exited = namespace.container(&image.name).runtime(runtime).args(args).change(change).run().await;
            assert_ne!(exited.code, 0, "{runtime} {args:?}: {exited:?}");
            let refused =
                ["Operation not permitted", "Permission denied"].iter().any(|why| exited.stderr.contains(why));
            assert!(refused, "{runtime} {args:?}: {exited:?}");
        }
    }
    let sleep = ["/demo.wasm", "sleep", "600"];
    let mut container = namespace.container(&image.name).args(&sleep).change(unprivileged()).create().await;
    container.start().await;
    container.prints("sleeping").await;
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).expect("it runs");
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("there is a root");
    assert!(root.split(' ').nth(5).is_some_and(|options| options.split(',').any(|option| option == "nodev")), "{root}");
    for args in [&native[..], &wasm] {
        let exited = container.exec(args).run().await;
        assert_ne!(exited.code, 0, "{args:?}: {exited:?}");
    }
    container.end().await;
}

/// A native program with containerd's default capabilities can make a device, as with runc, and cannot open it.
async fn devices_that_are_made_cannot_be_used(namespace: Namespace) {
    assert_device_is_there(&namespace);
    let image = busybox::image(&namespace);
    let script = format!("busybox mknod /made c {} {} && echo made; busybox head -c 1 /made", FUSE.0, FUSE.1);
    let mut seen = Vec::new();
    for runtime in [RUNC, OURS] {
        let args = ["sh", "-c", &script];
        let exited = namespace.container(&image.name).runtime(runtime).args(&args).run().await;
        assert!(exited.stderr.contains("Operation not permitted"), "{runtime}: {exited:?}");
        seen.push((exited.code, exited.stdout));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].1, "made\n");
}

/// A device that the spec adds and allows can be opened: not only the default devices are allowed.
async fn devices_of_the_spec_can_be_used(namespace: Namespace) {
    let image = with_device(&namespace);
    let with = |access: &str| {
        json!({ "linux": {
            "devices": [{ "path": "/dev/test", "type": "c", "major": FUSE.0, "minor": FUSE.1, "fileMode": 0o666 }],
            "resources": { "devices": [
                { "allow": false, "access": "rwm" },
                { "allow": true, "type": "c", "major": FUSE.0, "minor": FUSE.1, "access": access },
            ]},
        }})
    };
    let open = ["/bin/busybox", "sh", "-c", "exec 3<>/dev/test"];
    for (access, code) in [("rwm", 0), ("r", 1)] {
        for runtime in [RUNC, OURS] {
            let builder = namespace.container(&image.name).runtime(runtime).args(&open);
            let exited = builder.change(with(access)).run().await;
            assert_eq!(exited.code == 0, code == 0, "{runtime} {access}: {exited:?}");
        }
    }
}

/// A program of another user cannot read a file that only root may read, with any capabilities of its container.
async fn files_of_others_cannot_be_read(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let files = files(&[
        ("/bin/busybox", &busybox::bytes(), 0o755),
        ("/demo.wasm", &program.bytes, 0o644),
        ("/secret", b"secret", 0o600),
        ("/own/.keep", b"", 0o755),
    ]);
    let image = image::import(&namespace, "secret", |image| image.os("linux").layer(files));
    let user = json!({ "process": { "user": { "uid": 1000, "gid": 1000 } } });
    let native = ["/bin/busybox", "cat", "/secret"];
    let wasm = ["/demo.wasm", "read", "/secret"];
    let wasm_write = ["/demo.wasm", "write", "/own/file", "text"];
    for (runtime, args) in [(RUNC, &native[..]), (OURS, &native), (OURS, &wasm), (OURS, &wasm_write)] {
        let builder = namespace.container(&image.name).runtime(runtime).args(args).change(user.clone());
        let exited = builder.run().await;
        assert_eq!((exited.code, &*exited.stdout), (1, ""), "{runtime} {args:?}: {exited:?}");
        assert!(exited.stderr.contains("ermission denied"), "{runtime} {args:?}: {exited:?}");
    }
    // And root itself, without the capability for it, has the rights that the mode gives its owner.
    let root = json!({ "process": { "capabilities": null } });
    let exited = namespace.container(&image.name).args(&wasm).change(root).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "secret"));
}

/// A guest cannot write to its own process by `/proc`, as any user, and with any read-only paths in the spec.
async fn own_memory_is_no_file(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "demo", |image| image.layer(program.layer("demo.wasm")));
    for file in ["/proc/self/mem", "/proc/self/comm", "/proc/1/oom_score_adj"] {
        for change in [json!({}), json!({ "linux": { "readonlyPaths": [] } })] {
            let exited = namespace.container(&image.name).args(&["write", file, "x"]).change(change).run().await;
            assert_eq!(exited.code, 1, "{file}: {exited:?}");
            // Both words were seen from a guest; either way the file was not opened.
            let refused = ["Read-only file system", "I/O error"].iter().any(|why| exited.stderr.contains(why));
            assert!(refused && exited.stderr.contains("cannot open"), "{file}: {exited:?}");
        }
    }
    let exited = namespace.container(&image.name).args(&["read", "/proc/self/comm"]).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "demo.wasm\n"));
}

/// Returns the folders of a cgroup in every hierarchy that has it.
fn folders(path: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let parents = fs::read_dir(root).expect("there are cgroups").flatten().map(|entry| entry.path());
    let candidates = parents.chain([root.to_owned()]).map(|parent| parent.join(path.trim_start_matches('/')));
    candidates.filter(|folder| folder.is_dir()).collect()
}

/// Starts a process of the node's own, in a cgroup.
fn neighbour(folder: &Path) -> Child {
    let child = Command::new("sleep").arg("600").spawn().expect("sleep is there");
    fs::write(folder.join("cgroup.procs"), child.id().to_string()).expect("the cgroup can be joined");
    child
}

async fn refused(namespace: &Namespace, image: &Imported, path: &str) -> String {
    let change = json!({ "linux": { "cgroupsPath": path } });
    let created = namespace.container(&image.name).args(&["sleep", "600"]).change(change).try_create().await;
    created.err().unwrap_or_else(|| panic!("a container in {path} is refused")).message().to_owned()
}

fn is_alive(container: &Container) -> bool {
    Path::new(&format!("/proc/{}", container.pid())).exists()
}

/// A container whose cgroup, or one below it, holds processes is refused, and nobody is killed: not by its creation, its failure or its
/// removal. The end of a container kills its own processes and no others.
async fn containers_do_not_share_a_cgroup(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let base = format!("/{}/shared", namespace.name());
    let own = format!("{base}/own");
    let change = json!({ "linux": { "cgroupsPath": own } });
    let mut first = namespace.container(&image.name).args(&["sleep", "600"]).change(change).create().await;
    first.start().await;
    for path in [&own, &base] {
        let message = refused(&namespace, &image, path).await;
        assert!(message.contains("is not empty") && message.contains(path.as_str()), "{message}");
        assert!(is_alive(&first), "{path}");
    }
    let beside = folders(&base).first().expect("the first container is below it").join("neighbour");
    fs::create_dir(&beside).expect("the cgroup is ours");
    let mut process = neighbour(&beside);
    let message = refused(&namespace, &image, &format!("{base}/neighbour")).await;
    assert!(message.contains("1 processes"), "{message}");
    first.end().await;
    assert!(folders(&own).is_empty());
    assert!(process.try_wait().expect("it is a child").is_none(), "the neighbour was killed");
    process.kill().expect("it runs");
    process.wait().expect("it is a child");
    fs::remove_dir(&beside).expect("it is empty");
    for folder in folders(&base) {
        fs::remove_dir(folder).expect("it is empty");
    }
}

/// A cgroup that was there before its container stays when the container goes.
async fn cgroups_that_were_there_stay(namespace: Namespace) {
    let path = format!("/{}/before", namespace.name());
    let hierarchy = fs::read_dir("/sys/fs/cgroup").expect("there are cgroups").flatten().map(|entry| entry.path());
    let memory = hierarchy.into_iter().find(|path| path.ends_with("memory")).unwrap_or("/sys/fs/cgroup".into());
    let folder = memory.join(path.trim_start_matches('/'));
    fs::create_dir_all(&folder).expect("a cgroup can be made");
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "demo", |image| image.layer(program.layer("demo.wasm")));
    let change = json!({ "linux": { "cgroupsPath": path } });
    let exited = namespace.container(&image.name).args(&["echo", "there"]).change(change).run().await;
    assert_eq!((exited.code, &*exited.stdout), (0, "there\n"));
    assert_eq!(folders(&path), std::slice::from_ref(&folder));
    fs::remove_dir(&folder).expect("it is empty");
}

/// Copies the folder that a container has in the runtime folder; returns both.
fn copy_folder(namespace: &Namespace, container: &Container) -> (PathBuf, PathBuf) {
    let containers = namespace.daemon().runtime_dir().join("c");
    let found = fs::read_dir(&containers).expect("there is a container").flatten().map(|entry| entry.path());
    // Other namespaces have containers of the same id.
    let is_own = |folder: &PathBuf| {
        let spec = fs::read_to_string(folder.join("config.json")).unwrap_or_default();
        spec.contains(&format!("/{}/", namespace.name()))
    };
    let folder = found.map(|path| path.join(container.id())).find(is_own).expect("it has a folder");
    let copy = namespace.folder().join("copy");
    let copied = Command::new("cp").arg("-a").args([&folder, &copy]).status().expect("cp is there");
    assert!(copied.success());
    (folder, copy)
}

/// Remains of a container in the runtime folder do not keep a new one from having its id.
async fn stale_folder_does_not_block_an_id(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "demo", |image| image.layer(program.layer("demo.wasm")));
    let mut first = namespace.container(&image.name).args(&["echo", "one"]).create().await;
    let (folder, copy) = copy_folder(&namespace, &first);
    first.start().await;
    let id = first.id().to_owned();
    assert_eq!(first.finish().await.stdout, "one\n");
    fs::rename(&copy, &folder).expect("the folder is gone");
    let mut second = namespace.container(&image.name).args(&["echo", "two"]).id(&id).create().await;
    second.start().await;
    assert_eq!(second.finish().await.stdout, "two\n");
    assert!(!folder.exists());
}

/// A removal whose process has been killed is finished by the next daemon that starts.
async fn removal_that_was_cut_off_is_finished(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "demo", |image| image.layer(program.layer("demo.wasm")));
    let mut first = namespace.container(&image.name).args(&["echo", "one"]).create().await;
    let (folder, copy) = copy_folder(&namespace, &first);
    first.start().await;
    let (id, bundle) = (first.id().to_owned(), first.bundle());
    first.finish().await;
    fs::rename(&copy, &folder).expect("the folder is gone");
    let claimed: Value =
        serde_json::from_slice(&fs::read(folder.join("claim.json")).expect("it was noted")).expect("JSON");
    let note = json!({
        "version": 1, "owner": { "pid": 1, "start_time": u64::MAX }, "claimed": claimed,
        "remove": { "id": id, "bundle": bundle, "folder": folder, "helper": null, "init": null, "cgroup": null },
    });
    let notes = namespace.daemon().runtime_dir().join("r");
    fs::create_dir_all(&notes).expect("the folder is ours");
    let path = notes.join(namespace.name());
    fs::write(&path, note.to_string()).expect("the folder is ours");
    assert_eq!(namespace.container(&image.name).args(&["echo", "two"]).run().await.stdout, "two\n");
    eventually("the removal", LIMIT, async || {
        let moved = folder.with_file_name(format!("~{id}"));
        let left = [&folder, &moved, &path].into_iter().find(|path| path.exists());
        left.map_or(Ok(()), |left| Err(left.display().to_string()))
    })
    .await;
}

/// An image in which `/dev`, `/proc` or `/sys` is a link is refused, native or wasm. The shim makes and removes nothing at the link's
/// target on the node.
async fn links_in_the_place_of_folders_are_refused(namespace: Namespace) {
    let outside = namespace.folder().join("outside");
    fs::create_dir(&outside).expect("the folder is ours");
    fs::write(outside.join("ptmx"), "kept").expect("the folder is ours");
    let program = Program::guest(&namespace, DEMO);
    for path in ["/dev", "/proc", "/sys"] {
        let files = files(&[("/bin/busybox", &busybox::bytes(), 0o755), ("/demo.wasm", &program.bytes, 0o644)]);
        let layer = image::links(&[(path, &outside.to_string_lossy())]);
        let image = image::import(&namespace, &format!("link{}", path.replace('/', "-")), |image| {
            image.os("linux").layer(files).layer(layer)
        });
        for args in [&["/bin/busybox", "true"][..], &["/demo.wasm", "echo", "there"]] {
            let created = namespace.container(&image.name).args(args).try_create().await;
            let status = created.err().unwrap_or_else(|| panic!("{path} {args:?} is refused"));
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
            assert!(status.message().contains(&format!("{path} in it is a link")), "{status:?}");
        }
    }
    let left: Vec<_> = fs::read_dir(&outside).expect("it is there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["ptmx"]);
    assert_eq!(fs::read_to_string(outside.join("ptmx")).expect("it is there"), "kept");
}

/// A container whose path cannot be masked is not created, and nothing of it stays, as with runc: here the path is a circle of links.
async fn containers_without_their_masks_are_refused(namespace: Namespace) {
    let files = files(&[("/bin/busybox", &busybox::bytes(), 0o755)]);
    let layer = image::links(&[("/circle", "/circle")]);
    let image = image::import(&namespace, "circle", |image| image.os("linux").layer(files).layer(layer));
    let masked = json!({ "linux": { "maskedPaths": ["/circle"] } });
    for (runtime, expected) in [(RUNC, "too many levels of symbolic links"), (OURS, "cannot mask \"/circle\"")] {
        let container = namespace.container(&image.name).runtime(runtime).args(&["/bin/busybox", "true"]);
        let refused = match container.change(masked.clone()).try_create().await {
            Ok(mut container) => container.try_start().await.err(),
            Err(status) => Some(status),
        };
        let status = refused.unwrap_or_else(|| panic!("{runtime} refuses it"));
        assert!(status.message().contains(expected), "{status:?}");
    }
    namespace.assert_clean().await;
}

/// A device in the place of the program is not taken for one.
async fn devices_are_no_programs(namespace: Namespace) {
    let layer = device("/app.wasm", FUSE);
    let image = image::import(&namespace, "program", |image| image.os("linux").layer(layer));
    let created = namespace.container(&image.name).args(&["/app.wasm"]).try_create().await;
    let status = created.err().expect("there is no program");
    assert!(status.message().contains("cannot find entrypoint \"/app.wasm\""), "{status:?}");
}

/// No other user of the node can read the shim's copy of a container's spec, above all its environment.
async fn environment_is_for_root_alone(namespace: Namespace) {
    use std::os::unix::fs::MetadataExt as _;

    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "demo", |image| image.layer(program.layer("demo.wasm")));
    let mut container = namespace.container(&image.name).args(&["echo", "one"]).env("TOKEN=secret").create().await;
    let (folder, _) = copy_folder(&namespace, &container);
    let text = fs::read_to_string(folder.join("config.json")).expect("the spec lies there");
    assert!(text.contains("TOKEN=secret"));
    let metadata = fs::metadata(&folder).expect("it is there");
    assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o700));
    container.start().await;
    container.finish().await;
}

/// The names that an image gives its layers reach a client as text of one line, and no terminal obeys them.
async fn messages_are_plain_text(namespace: Namespace) {
    let config = json!({ "architecture": "wasm", "os": "wasip1", "layerDigests": [] }).to_string();
    let config = Blob::new("application/vnd.wasm.config.v0+json", config.as_bytes());
    let layers = [("a\u{1b}[2J", DEMO), ("b\nlevel=error", DEMO_COMPONENT)].map(|(title, guest)| {
        let bytes = Program::guest(&namespace, guest).bytes;
        Blob::new(oci_tar_builder::media_type::WASM, &bytes).annotated("org.opencontainers.image.title", title)
    });
    let image = manifest::import(&namespace, "titles", &config, layers.to_vec());
    let created = namespace.container(&image).args(&["c.wasm"]).try_create().await;
    let status = created.err().expect("nothing is called so");
    assert!(status.message().contains("a\\u001b[2J, b\\nlevel=error"), "{status:?}");
    assert!(!status.message().contains(char::is_control), "{status:?}");
}

/// A process whose id makes a name like that of its container leaves nothing out of the container's state.
async fn exec_ids_are_no_names_of_containers(namespace: Namespace) {
    let image = busybox::image(&namespace);
    let mut container = namespace.container(&image.name).args(&["sleep", "600"]).id("exec-one").create().await;
    container.start().await;
    for _ in 0..2 {
        let mut process =
            container.exec(&["/bin/busybox", "true"]).create_as("one").await.expect("nobody else is called so");
        process.start().await;
        assert_eq!(process.finish().await.code, 0);
    }
    container.end().await;
}
