//! User namespaces as containerd's clients ask for them, and whose files are whose in them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::PathBuf;

use prewasi_test::container::Builder;
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Imported, Program, files};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case};
use serde_json::{Value, json};

use super::{Mounted, bind, with_mounts};
use crate::busybox;
use crate::confinement::{OURS, RUNC, status};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(files_belong_to_mapped_users, needs Runc Busybox),
        case!(namespace_of_another_container_is_joined, needs Runc Busybox),
        case!(options_for_runc_are_obeyed, needs Busybox),
        case!(ctr_runs_with_a_user_namespace, needs Runc Busybox),
        case!(volumes_have_mapped_ids, needs Busybox),
    ]
}

const FIRST: u32 = 100_000;
const SIZE: u32 = 65_536;

/// Imports an image with busybox, and a wasm one, with a file that belongs to a user each.
fn images(namespace: &Namespace) -> [Imported; 2] {
    let busybox = files(&[("/bin/busybox", &busybox::bytes(), 0o755), ("/etc/motd", b"hello\n", 0o644)]);
    let native =
        image::import(namespace, "mapped", |image| image.os("linux").entrypoint(["/bin/busybox"]).layer(busybox));
    let program = Program::guest(namespace, DEMO);
    let wasm = image::import(namespace, "mapped-demo", |image| {
        image.layer(program.layer("demo.wasm")).layer(files(&[("/etc/motd", b"hello\n", 0o644)]))
    });
    // Unpacks it, too.
    namespace.ctr_run(&wasm.name, &["demo.wasm", "exit", "0"]).success();
    [native, wasm]
}

/// Encodes options for runc, of either type: the owner of the streams.
fn owner(kind: &str, uid: u32, gid: u32) -> (String, Vec<u8>) {
    #[derive(Clone, PartialEq, prost::Message)]
    struct RuncOptions {
        #[prost(uint32, tag = "4")]
        uid: u32,
        #[prost(uint32, tag = "5")]
        gid: u32,
        #[prost(bool, tag = "9")]
        systemd: bool,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct CreateOptions {
        #[prost(uint32, tag = "10")]
        uid: u32,
        #[prost(uint32, tag = "11")]
        gid: u32,
    }
    use prost::Message as _;
    let message = match kind {
        NEW => RuncOptions { uid, gid, systemd: false }.encode_to_vec(),
        _ => CreateOptions { uid, gid }.encode_to_vec(),
    };
    (kind.to_owned(), message)
}

const NEW: &str = "containerd.runc.v1.Options";
const OLD: &str = "containerd.linux.runc.CreateOptions";

fn sleeping(namespace: &Namespace, image: &Imported, runtime: &str) -> Builder {
    let args = if image.name.contains("demo") {
        &["sleep", "600"][..]
    } else {
        &["sh", "-c", "echo sleeping; exec busybox sleep 600"]
    };
    let (kind, message) = owner(NEW, FIRST, FIRST);
    namespace.container(&image.name).runtime(runtime).args(args).users(FIRST, SIZE).task_options(&kind, message)
}

/// Reads the user of the process, and the owners of the files that it sees, all as the node has them.
fn owners(container: &Container) -> BTreeMap<String, String> {
    let mut seen = status(container, &["Uid", "Gid"]);
    let folder = PathBuf::from(format!("/proc/{}", container.pid()));
    for map in ["uid_map", "gid_map"] {
        let text = fs::read_to_string(folder.join(map)).expect("it runs");
        seen.insert(map.to_owned(), text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    for path in ["/", "/etc", "/etc/motd", "/proc", "/dev", "/dev/null", "/dev/shm", "/run", "/work", "/volume/file"] {
        let metadata =
            fs::symlink_metadata(folder.join("root").join(path.trim_start_matches('/'))).expect("it is there");
        seen.insert(path.to_owned(), format!("{}:{} {:o}", metadata.uid(), metadata.gid(), metadata.mode()));
    }
    let stream = fs::metadata(folder.join("fd/1")).expect("it is open");
    seen.insert("stdout".to_owned(), stream.uid().to_string());
    seen
}

/// In a container with a user namespace, whose image the snapshotter maps, everything belongs to the same users as with runc. That includes
/// files of the image, devices, mounts, the new working directory, and the streams.
async fn files_belong_to_mapped_users(namespace: Namespace) {
    let [native, wasm] = images(&namespace);
    let volume = namespace.folder().join("volume");
    fs::create_dir(&volume).expect("the folder is ours");
    fs::write(volume.join("file"), "").expect("the folder is ours");
    chown(volume.join("file"), Some(FIRST + 5), Some(6)).expect("the file is ours");
    for (uid, gid) in [(0, 0), (1000, 1001)] {
        let process =
            json!({ "process": { "cwd": "/work", "user": { "uid": uid, "gid": gid, "additionalGids": [] } } });
        let mut all = Vec::new();
        for (image, runtime) in [(&native, RUNC), (&native, OURS), (&wasm, OURS)] {
            let container = sleeping(&namespace, image, runtime).change(process.clone());
            let mut container = container.change(with_mounts(&[bind(&volume, "/volume", &["rbind"])])).create().await;
            container.start().await;
            container.prints("sleeping").await;
            let mut seen = owners(&container);
            if image.name == wasm.name && uid != 0 {
                // A guest does not open its own streams again.
                seen.insert("stdout".to_owned(), (FIRST + uid).to_string());
            }
            all.push(seen);
            container.end().await;
        }
        assert_eq!(all[0]["/etc/motd"], format!("{FIRST}:{FIRST} 100644"));
        assert_eq!(all[0]["/work"], format!("{FIRST}:{FIRST} 40755"));
        assert_eq!(all[1], all[0], "native, user {uid}");
        assert_eq!(all[2], all[0], "wasm, user {uid}");
    }
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// A container that joins the user namespace of another one, as those of a pod do, is as with runc. Processes can be executed in it.
async fn namespace_of_another_container_is_joined(namespace: Namespace) {
    let [native, wasm] = images(&namespace);
    let mut first = sleeping(&namespace, &native, OURS).create().await;
    first.start().await;
    first.prints("sleeping").await;
    let path = |kind: &str, name: &str| json!({ "type": kind, "path": format!("/proc/{}/ns/{name}", first.pid()) });
    let own = ["pid", "mount"].map(|kind| json!({ "type": kind }));
    let joined = [("user", "user"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
    let kinds: Vec<Value> = joined.iter().map(|(kind, name)| path(kind, name)).chain(own).collect();
    let kinds = json!({ "linux": { "namespaces": kinds } });
    let mut all = Vec::new();
    for (image, runtime) in [(&native, RUNC), (&native, OURS), (&wasm, OURS)] {
        let volume = namespace.folder().join("volume");
        fs::create_dir_all(&volume).expect("the folder is ours");
        fs::write(volume.join("file"), "").expect("the folder is ours");
        let container = sleeping(&namespace, image, runtime).change(kinds.clone());
        let container = container.change(json!({ "process": { "cwd": "/work" }, "hostname": null }));
        let mut container = container.change(with_mounts(&[bind(&volume, "/volume", &["rbind"])])).create().await;
        container.start().await;
        container.prints("sleeping").await;
        all.push(owners(&container));
        for args in [&["/bin/busybox", "id", "-u"][..], &["/demo.wasm", "read", "/proc/self/uid_map"]] {
            if runtime == OURS && (args[0] == "/demo.wasm") == (image.name == wasm.name) {
                let exited = container.exec(args).run().await;
                assert_eq!(exited.code, 0, "{exited:?}");
                assert_eq!(exited.stdout.split_whitespace().next(), Some("0"), "{exited:?}");
            }
        }
        container.end().await;
    }
    first.end().await;
    assert_eq!(all[1], all[0], "native");
    assert_eq!(all[2], all[0], "wasm");
}

/// The shim understands options of each type that clients write for runc, and streams belong to the named owner. Another type is refused.
async fn options_for_runc_are_obeyed(namespace: Namespace) {
    let [native, wasm] = images(&namespace);
    // containerd 2.x does not know the older type any more.
    let kinds = if namespace.daemon().series().is_old() { &[NEW, OLD][..] } else { &[NEW] };
    for kind in kinds {
        for image in [&native, &wasm] {
            let (kind, message) = owner(kind, 4321, 1234);
            let mut container =
                namespace.container(&image.name).args(&["sleep", "600"]).task_options(&kind, message).create().await;
            container.start().await;
            let stream = fs::metadata(format!("/proc/{}/fd/1", container.pid())).expect("it is open");
            assert_eq!((stream.uid(), stream.gid()), (4321, 1234), "{kind} {}", image.name);
            container.end().await;
        }
    }
    let odd = namespace.container(&wasm.name).task_options("containerd.odd.v1.Options", b"\x08\x01".to_vec());
    let Err(status) = odd.try_create().await else { panic!("odd options are taken") };
    assert!(status.message().contains("containerd.odd.v1.Options"), "{status}");
    let broken = namespace.container(&wasm.name).task_options(NEW, b"\x1a\x7f".to_vec());
    assert!(broken.try_create().await.is_err(), "broken options are taken");
}

/// `ctr run --uidmap --gidmap` works as with runc, whether the snapshot is remapped by the client or by the snapshotter.
async fn ctr_runs_with_a_user_namespace(namespace: Namespace) {
    let [native, wasm] = images(&namespace);
    let map = format!("0:{FIRST}:{SIZE}");
    for labels in [false, true] {
        let run = |image: &Imported, runtime: &str, args: &[&str]| {
            let mut flags = vec!["run", "--rm", "--runtime", runtime, "--uidmap", &map, "--gidmap", &map];
            flags.extend(labels.then_some("--remap-labels"));
            let id = namespace.fresh_id("mapped");
            flags.extend([image.name.as_str(), &id]);
            namespace.ctr(&[&flags, args].concat())
        };
        let script =
            "busybox cat /proc/self/uid_map; busybox stat -c '%u:%g %a' / /etc/motd /dev/null /proc /sys/fs/cgroup";
        let script = &["/bin/busybox", "sh", "-c", script];
        let ours = run(&native, OURS, script);
        let runc = run(&native, RUNC, script);
        // containerd 1.7 asks runc's shim for the values that it does not know then.
        if !namespace.daemon().series().is_old() || runc.status.success() {
            assert_eq!(ours.success().stdout, runc.success().stdout, "labels: {labels}");
        } else {
            assert!(ours.success().stdout.contains("0:0 644"), "labels: {labels}");
        }
        let read = run(&wasm, OURS, &["demo.wasm", "read", "/proc/self/uid_map"]).success().stdout;
        assert_eq!(read.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
        run(&wasm, OURS, &["demo.wasm", "write", "/new", "text"]).success();
    }
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// A volume with mappings of its own, or with the option `idmap`, shows a file of the node's root as one of the container's root. Files
/// that the container writes belong to the node's root. Only `ridmap` maps mounts below.
async fn volumes_have_mapped_ids(namespace: Namespace) {
    let [native, wasm] = images(&namespace);
    let volume = Mounted::new(namespace.folder().join("volume"), libc::MS_PRIVATE);
    let below = Mounted::new(volume.path().join("below"), libc::MS_PRIVATE);
    fs::write(volume.path().join("file"), "").expect("it is ours");
    fs::write(below.path().join("file"), "").expect("it is ours");
    let maps = json!([{ "containerID": 0, "hostID": FIRST, "size": SIZE }]);
    let with_maps = |options: &[&str]| {
        let mut mount = bind(volume.path(), "/volume", options);
        mount["uidMappings"] = maps.clone();
        mount["gidMappings"] = maps.clone();
        mount
    };
    let own = [
        (with_maps(&["rbind", "rprivate"]), 0),
        (with_maps(&["rbind", "ridmap"]), FIRST),
        (bind(volume.path(), "/volume", &["rbind", "idmap"]), 0),
        (bind(volume.path(), "/volume", &["rbind", "ridmap"]), FIRST),
    ];
    for (mount, uid_below) in own {
        for image in [&native, &wasm] {
            let container = sleeping(&namespace, image, OURS).change(with_mounts(std::slice::from_ref(&mount)));
            let mut container = container.create().await;
            container.start().await;
            container.prints("sleeping").await;
            let uid = |path: &str| {
                let path = format!("/proc/{}/root/volume/{path}", container.pid());
                fs::metadata(path).expect("it is there").uid()
            };
            assert_eq!((uid("file"), uid("below/file")), (FIRST, uid_below), "{mount}");
            let args: &[&str] = if image.name == wasm.name {
                &["/demo.wasm", "write", "/volume/new", "text"]
            } else {
                &["/bin/busybox", "sh", "-c", "echo text > /volume/new"]
            };
            let exited = container.exec(args).run().await;
            assert_eq!(exited.code, 0, "{exited:?}");
            let new = volume.path().join("new");
            assert_eq!(fs::metadata(&new).expect("it was written").uid(), 0, "{mount}");
            fs::remove_file(new).expect("it is ours");
            container.end().await;
        }
    }
    // One half of a mapping is none, and without a user namespace there is nothing to go by.
    let mut half = with_maps(&["rbind"]);
    half["gidMappings"] = Value::Null;
    let refused = [
        (sleeping(&namespace, &native, OURS).change(with_mounts(&[half])), "gidMappings"),
        (
            namespace.container(&native.name).args(&["true"]).change(with_mounts(&[bind(
                volume.path(),
                "/volume",
                &["rbind", "idmap"],
            )])),
            "mapped ids",
        ),
    ];
    for (container, part) in refused {
        let Err(status) = container.try_create().await else { panic!("it is taken") };
        assert!(status.message().contains(part) && status.message().contains("/volume"), "{status}");
    }
}
