//! Images of more than one layer: the choice of the layer that runs, the use of other layers, and components made of several.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use oci_tar_builder::{Format, Layer, media_type};
use prewasi_test::faults::Faults;
use prewasi_test::guests::{DEMO, DEMO_COMPONENT};
use prewasi_test::image::{self, Program, files};
use prewasi_test::manifest::{self, Blob};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case};
use serde_json::json;
use tonic::Code;

use crate::survival::{kill_daemons, own};

mod programs;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case!(data_is_read_and_cannot_be_written),
        case!(data_of_an_artifact_is_read),
        case!(data_is_a_mount_of_the_content_store),
        case!(data_is_there_as_far_as_preopens_go),
        case!(data_is_copied_where_the_store_is_out_of_reach),
        case!(data_is_there_in_confined_containers),
        case!(killed_daemon_leaves_no_data),
        case!(file_system_layers_stay_the_root_filesystem),
        case!(layers_that_cannot_be_mounted_are_refused),
        case!(data_in_the_way_of_a_mount_is_refused),
        case!(links_of_the_image_are_not_followed),
        case!(damaged_data_is_refused),
        case!(commands_know_data),
    ];
    cases.extend(programs::cases());
    cases
}

const TEXT: &str = "/data/text";
const ALWAYS: usize = usize::MAX;

/// A file that nobody else has: equal bytes of all namespaces lie in one file, and some tests damage it.
fn text(namespace: &Namespace) -> Vec<u8> {
    format!("text of {}\n", namespace.name()).into_bytes()
}

fn data(bytes: &[u8], path: &str) -> Layer {
    let layer = Layer::from_bytes(media_type::DATA, "text", bytes.to_vec()).expect("anything is data");
    layer.mounted_at(path).expect("the path is plain")
}

/// Imports the demo program with the text at `/data/text`.
fn demo(namespace: &Namespace) -> String {
    let program = Program::guest(namespace, DEMO);
    let text = data(&text(namespace), TEXT);
    image::import(namespace, "data", |image| image.layer(program.layer("demo.wasm")).layer(text)).name
}

async fn read(namespace: &Namespace, image: &str, path: &str) -> String {
    let exited = namespace.container(image).args(&["read", path]).run().await;
    assert_eq!((exited.code, &*exited.stderr), (0, ""), "{path}");
    exited.stdout
}

async fn running(namespace: &Namespace, image: &str) -> Container {
    let mut container = namespace.container(image).create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    container
}

/// Returns the line of a container's mount at this path: `root path options …` of its file system.
fn mounted(container: &Container, path: &str) -> (String, String) {
    let list = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).expect("it runs");
    let fields = list.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[4] == path);
    let fields = fields.unwrap_or_else(|| panic!("nothing is mounted at {path}: {list}"));
    (fields[3].to_owned(), fields[5].to_owned())
}

/// A module and a component read the files that the image brings, under their paths, and cannot change them.
async fn data_is_read_and_cannot_be_written(namespace: Namespace) {
    let (text, digest) = (text(&namespace), image::digest(&text(&namespace)));
    for guest in [DEMO, DEMO_COMPONENT] {
        let program = Program::guest(&namespace, guest);
        let layers = [data(&text, TEXT), data(b"at the root\n", "/model.bin"), data(&text, "/data/deep/a b")];
        let image = image::import(&namespace, &guest.replace('.', "-"), |image| {
            layers.into_iter().fold(image.layer(program.layer("demo.wasm")), oci_tar_builder::Builder::layer)
        });
        for path in [TEXT, "/data/deep/a b"] {
            assert_eq!(read(&namespace, &image.name, path).await.as_bytes(), text);
        }
        assert_eq!(read(&namespace, &image.name, "/model.bin").await, "at the root\n");
        let exited = namespace.container(&image.name).args(&["write", TEXT, "other"]).run().await;
        assert_eq!(exited.code, 1, "{}", exited.stderr);
        assert!(exited.stderr.starts_with("cannot open /data/text"), "{}", exited.stderr);
        let kept = fs::read(namespace.daemon().blob_path(&digest)).expect("the blob is there");
        assert_eq!(kept, text);
        // Beside it, the container's own files are writable as ever.
        let exited = namespace.container(&image.name).args(&["write", "/data/own", "own"]).run().await;
        assert_eq!((exited.code, &*exited.stderr), (0, ""));
    }
}

/// A CNCF wasm artifact may have data as well.
async fn data_of_an_artifact_is_read(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let text = text(&namespace);
    let image = image::import_as(Format::Artifact, &namespace, "artifact", |image| {
        image.layer(program.layer("demo.wasm")).layer(data(&text, TEXT))
    });
    let exited = namespace.container(&image.name).args(&["demo.wasm", "read", TEXT]).run().await;
    assert_eq!((exited.code, exited.stdout.as_bytes(), &*exited.stderr), (0, &*text, ""));
}

/// The file is the blob's own, mounted so that nothing in it is executed or obeyed; a process that is executed sees it too. Nothing
/// stays mounted.
async fn data_is_a_mount_of_the_content_store(namespace: Namespace) {
    let image = demo(&namespace);
    let text = text(&namespace);
    let container = running(&namespace, &image).await;
    let (root, options) = mounted(&container, TEXT);
    let hex = image::digest(&text).replace("sha256:", "");
    assert!(root.ends_with(&format!("/blobs/sha256/{hex}")), "{root}");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(options.split(',').any(|set| set == option), "{option} in {options}");
    }
    assert!(!container.bundle().join("prewasi-data").exists());
    let exited = container.exec(&["demo.wasm", "read", TEXT]).run().await;
    assert_eq!((exited.code, exited.stdout.as_bytes()), (0, &*text));
    container.end().await;
    namespace.assert_clean().await;
}

/// Data is seen through the root folder; who is given the mounts alone, or nothing, is not given single files.
async fn data_is_there_as_far_as_preopens_go(namespace: Namespace) {
    let image = demo(&namespace);
    for (preopens, code) in [("root", 0), ("read-only", 0), ("mounts", 1), ("none", 1)] {
        let container = namespace.container(&image).annotation("prewasi.io/preopens", preopens);
        let exited = container.args(&["read", TEXT]).run().await;
        assert_eq!(exited.code, code, "{preopens}: {}", exited.stderr);
    }
}

/// Where containerd's files are out of reach the container has a copy in its bundle, which goes with it.
async fn data_is_copied_where_the_store_is_out_of_reach(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let image = demo(&namespace);
    let faults = Faults::between(namespace.daemon());
    faults.inject("Introspection/Plugins", None, Code::Internal, ALWAYS);
    let container = running(&namespace, &image).await;
    assert!(faults.clear() > 0, "nobody asked where the store is");
    drop(faults);
    let (root, options) = mounted(&container, TEXT);
    assert!(root.contains("/prewasi-data/") && options.split(',').any(|set| set == "ro"), "{root} {options}");
    let exited = container.exec(&["demo.wasm", "read", TEXT]).run().await;
    assert_eq!((exited.code, exited.stdout.into_bytes()), (0, text(&namespace)));
    let bundle = container.bundle();
    assert!(bundle.join("prewasi-data").exists());
    container.end().await;
    assert!(!bundle.exists());
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// A container whose root filesystem is read-only, that runs as another user, or that has a user namespace has its data too.
async fn data_is_there_in_confined_containers(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    // The root of a user namespace may not make these folders here.
    let folders = ["/proc", "/dev", "/sys", "/run"].map(|folder| format!("{folder}/.keep"));
    let folders: Vec<(&str, &[u8], u32)> = folders.iter().map(|path| (&**path, &b""[..], 0o644)).collect();
    let (folders, text) = (files(&folders), text(&namespace));
    let image = image::import(&namespace, "confined", |image| {
        image.layer(program.layer("demo.wasm")).layer(folders).layer(data(&text, TEXT))
    });
    // Unpacks it, too.
    namespace.ctr_run(&image.name, &["demo.wasm", "exit", "0"]).success();
    let ids = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    let kinds = ["pid", "ipc", "uts", "mount", "network", "user"].map(|kind| json!({ "type": kind }));
    for change in [
        json!({ "root": { "readonly": true } }),
        json!({ "process": { "user": { "uid": 1000, "gid": 1000 }, "capabilities": {} } }),
        json!({ "linux": { "uidMappings": ids, "gidMappings": ids, "namespaces": kinds } }),
    ] {
        let container = namespace.container(&image.name).change(change.clone());
        let exited = container.args(&["read", TEXT]).run().await;
        assert_eq!((exited.code, &*exited.stderr), (0, ""), "{change}");
        assert_eq!(exited.stdout.as_bytes(), text, "{change}");
    }
}

/// After a SIGKILL of the shim's daemon nothing is left of a container with data.
async fn killed_daemon_leaves_no_data(namespace: Namespace) {
    let image = demo(&namespace);
    let container = running(&namespace, &image).await;
    kill_daemons(&namespace);
    container.try_delete().await;
    namespace.clear().await;
    namespace.assert_clean().await;
}

/// Layers that containerd unpacks are the root filesystem of a wasm image as of any other, and need no annotation.
async fn file_system_layers_stay_the_root_filesystem(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let layer = files(&[("/etc/settings", b"settings\n", 0o644)]);
    let text = text(&namespace);
    let image = image::import(&namespace, "mixed", |image| {
        image.layer(program.layer("demo.wasm")).layer(layer).layer(data(&text, "/etc/text"))
    });
    let read = |path: &str| namespace.ctr_run(&image.name, &["demo.wasm", "read", path]).success().stdout;
    assert_eq!(read("/etc/settings"), "settings\n");
    assert_eq!(read("/etc/text").as_bytes(), text);
}

/// Imports a wasm image with layers that no packer would make: type, bytes, annotation.
fn odd(namespace: &Namespace, name: &str, layers: &[(&str, &[u8], Option<&str>)]) -> (Program, String) {
    let program = Program::guest(namespace, DEMO);
    let mut blobs = vec![Blob::new(media_type::WASM, &program.bytes).annotated(TITLE, "demo.wasm")];
    blobs.extend(layers.iter().map(|(media_type, bytes, mount)| {
        let blob = Blob::new(media_type, bytes);
        mount.iter().fold(blob, |blob, mount| blob.annotated(MOUNT, mount))
    }));
    let image = manifest::import(namespace, name, &image_config(), blobs);
    (program, image)
}

const TITLE: &str = "org.opencontainers.image.title";
const MOUNT: &str = "prewasi.io/mount";

fn image_config() -> Blob {
    let config = json!({
        "architecture": "wasm", "os": "wasip1", "config": {"Entrypoint": ["demo.wasm"]},
        "rootfs": {"type": "layers", "diff_ids": []},
    });
    Blob::new("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())
}

/// Asserts that a container is refused with each of `parts`, and that nothing is left of it.
async fn assert_refused(namespace: &Namespace, container: prewasi_test::container::Builder, parts: &[&str]) {
    let Err(status) = container.try_create().await else { panic!("a container was created: {parts:?}") };
    for part in parts {
        assert!(status.message().contains(part), "{part:?} in {status}");
    }
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    namespace.assert_clean().await;
}

/// Layers without a path, with a malformed or conflicting path, or with an archive are refused before anything is compiled. The error names
/// image and layer and the remedy.
async fn layers_that_cannot_be_mounted_are_refused(namespace: Namespace) {
    const PLAIN: &str = media_type::DATA;
    let plain = |mount: &'static str| vec![(PLAIN, Some(mount))];
    let tar = |suffix: &str| format!("application/vnd.oci.image.layer.v1.tar{suffix}");
    let tars = [tar(""), tar("+gzip"), tar("+zstd"), "application/x-tar".to_owned()];
    /// Type and annotation of each layer, and the message about the last one.
    type Refused<'a> = (Vec<(&'a str, Option<&'a str>)>, &'a str);
    let mut cases: Vec<Refused<'_>> = vec![
        (vec![(PLAIN, None)], "no annotation prewasi.io/mount"),
        (plain("data/text"), "is not absolute"),
        (plain("/data/../etc/passwd"), "has a part \"..\""),
        (plain("/"), "is the root"),
        (plain("/data/"), "has an empty part"),
        (vec![(PLAIN, Some("/a")), (PLAIN, Some("/a"))], "conflicts with /a"),
        (vec![(PLAIN, Some("/a")), (PLAIN, Some("/a/b"))], "conflicts with /a"),
        (vec![("application/vnd.example.unknown", None)], "application/vnd.example.unknown"),
    ];
    cases.extend(tars.iter().map(|tar| (vec![(tar.as_str(), Some("/a"))], "only single files can be mounted")));
    for (number, (layers, part)) in cases.iter().enumerate() {
        let bytes: Vec<Vec<u8>> =
            (0..layers.len()).map(|n| format!("{number} {n} {}", namespace.name()).into()).collect();
        let layers: Vec<_> =
            layers.iter().zip(&bytes).map(|((kind, mount), bytes)| (*kind, &**bytes, *mount)).collect();
        let (program, image) = odd(&namespace, &format!("odd{number}"), &layers);
        let digest = image::digest(bytes.last().expect("there is one"));
        assert_refused(&namespace, namespace.container(&image), &["cannot mount layer", &image, &digest, part]).await;
        assert_eq!(namespace.daemon().journal().compiles(&program.digest), [], "{part}");
    }
    // A layer of a manifest that says another length than the blob has.
    let text = text(&namespace);
    let program = Program::guest(&namespace, DEMO);
    let lie = Blob { size: text.len() as u64 + 1, ..Blob::new(PLAIN, &text).annotated(MOUNT, "/a") };
    let blobs = vec![Blob::new(media_type::WASM, &program.bytes), lie];
    let image = manifest::import(&namespace, "lie", &image_config(), blobs);
    assert_refused(&namespace, namespace.container(&image), &["the manifest says", &image]).await;
}

/// A file at, above or below a mount of the container is an error that names both.
async fn data_in_the_way_of_a_mount_is_refused(namespace: Namespace) {
    let image = demo(&namespace);
    let folder = namespace.folder().display().to_string();
    for destination in ["/data", "/data/text", "/data/text/below", "/x/../data/"] {
        let mount = json!({"destination": destination, "type": "bind", "source": folder, "options": ["rbind", "ro"]});
        let container = namespace.container(&image).mount(mount);
        assert_refused(&namespace, container, &["at /data/text", "has a mount at /data", &image]).await;
    }
    let (_, image) = odd(&namespace, "proc", &[(media_type::DATA, b"x", Some("/proc/version"))]);
    assert_refused(&namespace, namespace.container(&image), &["at /proc/version", "has a mount at /proc"]).await;
}

/// A link in the image's own file system does not lead the mount elsewhere.
async fn links_of_the_image_are_not_followed(namespace: Namespace) {
    let layer = image::links(&[("data", "/proc/self")]);
    let program = Program::guest(&namespace, DEMO);
    let text = data(&text(&namespace), "/data/attr");
    let image =
        image::import(&namespace, "links", |image| image.layer(program.layer("demo.wasm")).layer(layer).layer(text));
    let output = namespace.ctr_run(&image.name, &["demo.wasm", "exit", "0"]).fails_with(1);
    output.says(&["at /data/attr", "a link", &image.name]);
    namespace.assert_clean().await;
}

/// Data in which a byte was changed is not mounted, though it was sound before; data that is gone neither.
async fn damaged_data_is_refused(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let layers = [data(b"sound, and mounted before the other one\n", "/sound"), data(&text(&namespace), TEXT)];
    let image = image::import(&namespace, "damaged", |image| {
        layers.into_iter().fold(image.layer(program.layer("demo.wasm")), oci_tar_builder::Builder::layer)
    });
    let image = image.name;
    let digest = image::digest(&text(&namespace));
    for _ in 0..2 {
        assert_eq!(read(&namespace, &image, TEXT).await.into_bytes(), text(&namespace));
    }
    let path = namespace.daemon().blob_path(&digest);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("the blob is there");
    let file = File::options().write(true).open(&path).expect("the blob is there");
    file.write_all_at(b"X", 0).expect("it is open");
    let parts = ["cannot mount layer", &digest, &image, "bytes were changed", "pull it again"];
    assert_refused(&namespace, namespace.container(&image), &parts).await;
    namespace.delete_blob(&digest).await;
    let parts = [&*digest, &image, "not in the content store", "pull the image again"];
    assert_refused(&namespace, namespace.container(&image), &parts).await;
}

/// `inspect` lists mounts, their places, and the layers that cannot be mounted; `precompile` compiles the wasm and ignores the rest.
async fn commands_know_data(namespace: Namespace) {
    let image = demo(&namespace);
    let (program, digest) = (Program::guest(&namespace, DEMO), image::digest(&text(&namespace)));
    let output = namespace.prewasi("inspect", &[&image]).success();
    assert!(output.stdout.contains(&digest), "{output}");
    let told = format!("data of {} bytes, mounted read-only at /data/text", text(&namespace).len());
    assert!(output.stdout.contains(&told), "{output}");
    namespace.prewasi("precompile", &[&image]).success();
    let (_, odd) = odd(&namespace, "odd", &[(media_type::DATA, b"x", None)]);
    namespace.prewasi("precompile", &[&odd]).success();
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
    let output = namespace.prewasi("inspect", &[&odd]).fails_with(1);
    assert!(output.stdout.contains("data that cannot be mounted: "), "{output}");
    output.says(&["error: cannot mount layer", &odd, "caused by: ", "oci-tar-builder --data"]);
}
