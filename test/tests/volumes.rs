//! Programs that lie on a mount: they are looked for where the container sees them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Program, files, links};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};
use rustix::fs::{CWD, FileType, Mode};
use serde_json::{Value, json};

use crate::busybox;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(wasm_on_a_volume_runs, needs Busybox),
        case!(native_program_on_a_volume_runs, needs Busybox Runc),
        case!(links_on_the_way_lead_to_the_volume, needs Busybox),
        case!(last_mount_is_what_counts, needs Busybox),
        case!(volume_leads_nowhere_else, needs Busybox),
        case!(mount_that_cannot_be_made_is_named, needs Busybox),
        case!(programs_get_a_folder_for_temporary_files),
    ]
}

/// A module that exits with a code.
pub(crate) fn exits(code: u32) -> Vec<u8> {
    let text = format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {code}))))"#
    );
    wat::parse_str(text).expect("the text is a module")
}

/// A folder of the node that becomes a volume.
struct Volume(PathBuf);

impl Volume {
    fn new(namespace: &Namespace, name: &str) -> Self {
        let folder = namespace.folder().join(name);
        fs::create_dir_all(&folder).expect("the folder is ours");
        Self(folder)
    }

    fn put(self, path: &str, bytes: &[u8]) -> Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("the folder is ours");
        fs::write(&path, bytes).expect("the folder is ours");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("the file is ours");
        self
    }

    fn at(&self, destination: &str) -> Value {
        bind(&self.0, destination)
    }
}

fn bind(source: &std::path::Path, destination: &str) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rw"] })
}

/// Returns a change of the spec: arguments and working directory of the process, instead of the image's.
fn process(args: &[&str], cwd: &str) -> Value {
    json!({ "process": { "args": args, "cwd": cwd } })
}

async fn code(namespace: &Namespace, image: &str, mounts: &[Value], args: &[&str], cwd: &str) -> u32 {
    let container = mounts.iter().cloned().fold(namespace.container(image), prewasi_test::container::Builder::mount);
    let exited = container.change(process(args, cwd)).run().await;
    assert_eq!(exited.stderr, "", "{args:?}");
    exited.code
}

/// Creates a container that has to be refused, and returns why.
async fn refused(namespace: &Namespace, image: &str, mounts: &[Value], args: &[&str]) -> String {
    let container = mounts.iter().cloned().fold(namespace.container(image), prewasi_test::container::Builder::mount);
    let status = container.change(process(args, "/")).try_create().await.err();
    let status = status.unwrap_or_else(|| panic!("{args:?} is not refused"));
    namespace.assert_clean().await;
    status.message().to_owned()
}

/// Wasm on a bind mount runs: by its path, relative to the working directory, by its first bytes alone, and from the search path. Exec
/// processes find the same files.
async fn wasm_on_a_volume_runs(namespace: Namespace) {
    let image = busybox::image(&namespace).name;
    let volume = Volume::new(&namespace, "app").put("app.wasm", &exits(3)).put("bin/tool", &exits(4));
    let mounts = [volume.at("/app")];
    assert_eq!(code(&namespace, &image, &mounts, &["/app/app.wasm"], "/").await, 3);
    assert_eq!(code(&namespace, &image, &mounts, &["app.wasm"], "/app").await, 3);
    assert_eq!(code(&namespace, &image, &mounts, &["../app/app.wasm"], "/app").await, 3);
    assert_eq!(code(&namespace, &image, &mounts, &["/app/bin/tool"], "/").await, 4);
    let container = namespace.container(&image).mount(volume.at("/app")).env("PATH=/bin:/app/bin");
    assert_eq!(container.change(process(&["tool"], "/")).run().await.code, 4);
    let container = namespace.container(&image).mount(volume.at("/app")).args(&["sleep", "600"]);
    let mut container = container.create().await;
    container.start().await;
    for (program, code) in [("/app/app.wasm", 3), ("/app/bin/tool", 4)] {
        assert_eq!(container.exec(&[program]).run().await.code, code, "{program}");
    }
    container.end().await;
}

/// A native program on a bind mount runs, as with runc, although the image has none of that name.
async fn native_program_on_a_volume_runs(namespace: Namespace) {
    let image = busybox::image(&namespace).name;
    let volume = Volume::new(&namespace, "native").put("busybox", &busybox::bytes());
    for runtime in [namespace.runtime(), "io.containerd.runc.v2".to_owned()] {
        let container = namespace.container(&image).runtime(&runtime).mount(volume.at("/tools"));
        let exited = container.change(process(&["/tools/busybox", "echo", "hello"], "/")).run().await;
        assert_eq!((exited.code, &*exited.stdout), (0, "hello\n"), "{runtime}");
    }
}

/// Links of the image on the way to the program, and to the mount, are followed inside the root filesystem, as for the container's
/// processes.
async fn links_on_the_way_lead_to_the_volume(namespace: Namespace) {
    let image = image::import(&namespace, "links", |image| {
        let busybox = files(&[("/bin/busybox", &busybox::bytes(), 0o755), ("/srv/.keep", b"", 0o644)]);
        image.os("linux").layer(busybox).layer(links(&[
            ("/app", "/srv"),
            ("/up", "../../../srv/deep"),
            ("/run.wasm", "app/app.wasm"),
        ]))
    });
    let volume = Volume::new(&namespace, "srv").put("app.wasm", &exits(5)).put("inner/app.wasm", &exits(6));
    symlink("/srv/inner", volume.0.join("deep")).expect("the folder is ours");
    for (destination, args, expected) in [
        ("/srv", "/app/app.wasm", 5),
        ("/app", "/srv/app.wasm", 5),
        ("/app", "/app/app.wasm", 5),
        ("/srv", "/run.wasm", 5),
        ("/srv", "/up/app.wasm", 6),
        ("/srv", "/app/deep/app.wasm", 6),
    ] {
        let found = code(&namespace, &image.name, &[volume.at(destination)], &[args], "/").await;
        assert_eq!(found, expected, "{args} with a volume at {destination}");
    }
}

/// With mounts over mounts, and over the image's own wasm, the file that a process sees runs: a later volume, a single file, or nothing.
async fn last_mount_is_what_counts(namespace: Namespace) {
    let image = image::import(&namespace, "own", |image| {
        let own = files(&[("/bin/busybox", &busybox::bytes(), 0o755), ("/app/app.wasm", &exits(1), 0o644)]);
        image.os("linux").entrypoint(["/app/app.wasm"]).layer(own)
    })
    .name;
    let (first, second) = (Volume::new(&namespace, "first"), Volume::new(&namespace, "second"));
    let (first, second) =
        (first.put("app.wasm", &exits(11)).put("sub/app.wasm", &exits(12)), second.put("app.wasm", &exits(21)));
    let file = namespace.folder().join("file.wasm");
    fs::write(&file, exits(31)).expect("the folder is ours");
    let tmpfs = |destination: &str| json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs" });
    let (own, sub) = ("/app/app.wasm", "/app/sub/app.wasm");
    assert_eq!(code(&namespace, &image, &[], &[own], "/").await, 1);
    assert_eq!(code(&namespace, &image, &[first.at("/app")], &[own], "/").await, 11);
    assert_eq!(code(&namespace, &image, &[first.at("/app"), second.at("/app")], &[own], "/").await, 21);
    assert_eq!(code(&namespace, &image, &[first.at("/app"), second.at("/app/sub")], &[sub], "/").await, 21);
    assert_eq!(code(&namespace, &image, &[second.at("/app/sub"), first.at("/app")], &[sub], "/").await, 12);
    assert_eq!(code(&namespace, &image, &[bind(&file, own)], &[own], "/").await, 31);
    assert_eq!(code(&namespace, &image, &[first.at("/app"), bind(&file, own)], &[own], "/").await, 31);
    assert_eq!(
        code(&namespace, &image, &[tmpfs("/new"), bind(&file, "/new/a/app.wasm")], &["/new/a/app.wasm"], "/").await,
        31
    );
    let said = refused(&namespace, &image, &[tmpfs("/app")], &[own]).await;
    assert!(said.contains("cannot find entrypoint \"/app/app.wasm\""), "{said}");
    let said = refused(&namespace, &image, &[first.at("/app"), tmpfs("/app/sub")], &[sub]).await;
    assert!(said.contains("cannot find entrypoint \"/app/sub/app.wasm\""), "{said}");
}

/// A volume is as untrusted as an image: no link of it leads to the node's files, and only a regular file is opened.
async fn volume_leads_nowhere_else(namespace: Namespace) {
    let image = busybox::image(&namespace).name;
    let secret = namespace.folder().join("secret.wasm");
    fs::write(&secret, exits(9)).expect("the folder is ours");
    let volume = Volume::new(&namespace, "hostile").put("file.wasm", b"");
    let path = |name: &str| volume.0.join(name);
    symlink(&secret, path("absolute.wasm")).expect("the folder is ours");
    symlink("../secret.wasm", path("up.wasm")).expect("the folder is ours");
    symlink("/proc/1/root", path("magic")).expect("the folder is ours");
    symlink("loop.wasm", path("loop.wasm")).expect("the folder is ours");
    fs::create_dir(path("folder.wasm")).expect("the folder is ours");
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(CWD, path("fifo.wasm"), FileType::Fifo, mode, 0).expect("the folder is ours");
    let zero = rustix::fs::makedev(1, 5);
    rustix::fs::mknodat(CWD, path("device.wasm"), FileType::CharacterDevice, mode, zero).expect("the folder is ours");
    let inside_magic = format!("magic{}", secret.display());
    for name in ["absolute.wasm", "up.wasm", "folder.wasm", "fifo.wasm", "device.wasm", &inside_magic] {
        let said = refused(&namespace, &image, &[volume.at("/app")], &[&format!("/app/{name}")]).await;
        assert!(said.contains("cannot find entrypoint") && said.contains(name), "{name}: {said}");
    }
    let said = refused(&namespace, &image, &[volume.at("/app")], &["/app/loop.wasm"]).await;
    assert!(said.contains("cannot read entrypoint \"/app/loop.wasm\""), "{said}");
    let said = refused(&namespace, &image, &[volume.at("/app")], &["/app/file.wasm"]).await;
    assert!(said.contains("/app/file.wasm"), "{said}");
}

/// If the mount cannot be made on which the program should lie, the error names it with its reason.
async fn mount_that_cannot_be_made_is_named(namespace: Namespace) {
    let image = busybox::image(&namespace).name;
    let missing = bind(&namespace.folder().join("nothing"), "/app");
    let said = refused(&namespace, &image, &[missing], &["/app/app.wasm"]).await;
    for part in ["cannot find entrypoint \"/app/app.wasm\"", "/app: No such file or directory"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// An image without `/tmp` gets one by the mount that `docs/configuration.md` names for `ctr`, and by CRI's mount of an `emptyDir`. That
/// holds with the default, and if a program sees mounts alone.
async fn programs_get_a_folder_for_temporary_files(namespace: Namespace) {
    let image =
        image::import(&namespace, "bare", |image| image.layer(Program::guest(&namespace, DEMO).layer("demo.wasm")))
            .name;
    let write = ["demo.wasm", "write", "/tmp/file", "text"];
    let output = namespace.ctr_run(&image, &write).fails_with(1);
    assert!(output.stderr.contains("/tmp/file"), "{output}");
    for preopens in ["root", "mounts"] {
        let (id, runtime) = (namespace.fresh_id("tmp"), namespace.runtime());
        let annotation = format!("prewasi.io/preopens={preopens}");
        let mount = "type=tmpfs,src=tmpfs,dst=/tmp,options=mode=1777";
        let options = [
            "run",
            "--rm",
            "--runtime",
            runtime.as_str(),
            "--annotation",
            &annotation,
            "--mount",
            mount,
            "--user",
            "1000",
        ];
        namespace.ctr(&[&options[..], &[&*image, &*id], &write].concat()).success();
        let empty = Volume::new(&namespace, preopens);
        fs::set_permissions(&empty.0, Permissions::from_mode(0o777)).expect("the folder is ours");
        let container = namespace.container(&image).mount(empty.at("/tmp")).annotation("prewasi.io/preopens", preopens);
        assert_eq!(container.args(&write[1..]).run().await.code, 0, "{preopens}");
        assert_eq!(fs::read(empty.0.join("file")).expect("the guest made it"), b"text\n");
    }
}
